"""T1: a guest is shut down and started again, and the old PCR values are still there (R1, R2).

Attacker: host administrator.
Control: swtpm without `--terminate`, two QEMUs one after the other: it outlives its guest, and once
the first has sent Shutdown(STATE), the second resumes its registers.
Shows: another launch is another pair with fresh registers; either half is gone within a second of
the other.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import attacks
from demo.good_run import COMMAND_LINE, GUEST
from demo.stage import Stage
from peers import plain
from peers.bare_machine import plain_machine
from peers.tiny_kernel import HALTED_FIRMWARE
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import StartupType
from tests.attacks.quoting_tpm import GOOD_BOOT, measure
from tests.attacks.tpm import done

REGISTER = 12
DIGEST = "11" * 32
BLANK = "00" * 32
READ = f"tpm2_pcrread sha256:{REGISTER} -Q -o r && od -An -v -tx1 r | tr -d ' \\n'"


@pytest.fixture(autouse=True)
def no_guest_left(stage: Stage) -> Iterator[None]:
    """End the guest whatever a test did."""
    yield
    stage.tandem("guest", "stop", GUEST, "--kill", expect=None)


def test_control_swtpm_outlives_its_guest(image: Path) -> None:
    # Given a guest on plain swtpm
    guest = plain.Image(
        kernel=image / "vmlinuz", initrd=image / "initramfs.cpio", command_line=COMMAND_LINE
    )
    with tempfile.TemporaryDirectory() as name, plain.swtpm(Path(name)) as control:
        with plain.guest(guest, control, Path(name)) as console:
            attacks.ready(console)

        # When it is killed, and another guest comes
        with plain.guest(guest, control, Path(name)) as console:
            attacks.ready(console)

            # Then the same vTPM process serves that one, too
            assert console.run("tpm2_getrandom 4 --hex").strip()


def test_control_the_old_values_are_there_after_a_restart(control: Path, tmp_path: Path) -> None:
    # Given a guest that measured its boot, saved the registers, and was killed
    read = tpm.pcr_read(tuple(GOOD_BOOT))
    with plain_machine(control) as first:
        first.machine.run_until()
        measure(first.machine)
        before = done(first.machine, read).parameters[4:]  # past the update counter
        done(first.machine, tpm.shutdown(StartupType.STATE))

    # When a guest that measures nothing is started on the same vTPM, and resumes them
    firmware = tmp_path / "firmware"
    firmware.write_bytes(HALTED_FIRMWARE)
    with plain_machine(control, "-bios", str(firmware)) as second:
        done(second.machine, tpm.startup(StartupType.STATE))
        after = done(second.machine, read).parameters[4:]

    # Then it has the first one's values
    assert bytes(32) not in before
    assert after == before


def test_the_registers_of_a_killed_launch_are_not_seen_in_the_next(stage: Stage) -> None:
    # Given a guest that extended a register and is killed
    [first] = stage.ask("guest", "start", GUEST)
    with stage.console(GUEST) as console:
        attacks.ready(console)
        console.run(f"tpm2_pcrextend {REGISTER}:sha256={DIGEST}")
        assert console.run(READ).strip() != BLANK
    os.kill(first["hypervisor_pid"], signal.SIGKILL)
    stage.wait_until_ended(GUEST)

    # When it is started again
    [second] = stage.ask("guest", "start", GUEST)
    with stage.console(GUEST) as console:
        attacks.ready(console)
        value = console.run(READ).strip()

    # Then it is another pair, on the same persistent vTPM, with fresh registers
    assert second["pair_id"] != first["pair_id"]
    assert second["launch_number"] == first["launch_number"] + 1
    assert value == BLANK


def test_a_vtpm_is_gone_within_a_second_of_its_guest(stage: Stage) -> None:
    # Given a running pair
    [pair] = stage.ask("guest", "start", GUEST)
    vtpm = os.pidfd_open(pair["vtpm_pid"])

    # When its guest is killed
    os.kill(pair["hypervisor_pid"], signal.SIGKILL)

    # Then its vTPM is gone
    assert gone_within_a_second(vtpm)


def test_a_guest_is_gone_within_a_second_of_its_vtpm(stage: Stage) -> None:
    # Given a running pair
    [pair] = stage.ask("guest", "start", GUEST)
    hypervisor = os.pidfd_open(pair["hypervisor_pid"])

    # When its vTPM is killed
    os.kill(pair["vtpm_pid"], signal.SIGKILL)

    # Then the kernel has ended the guest
    assert gone_within_a_second(hypervisor)


def gone_within_a_second(pidfd: int) -> bool:
    """Wait for the process of a pidfd to end."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.002)
    return False
