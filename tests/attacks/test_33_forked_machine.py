"""33: a running guest is saved once with its vTPM, and resumed twice.

Attacker: host administrator, or a backup tool with the machine's monitor.
Control: QEMU on swtpm migrates into a file; two machines resume from it, both with the same key and
registers, and even draw the same random numbers.
Shows: a vTPM gives its state to nobody and takes none, so QEMU itself refuses to save, to snapshot
and to resume the machine; the pair lives on.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peers import plain
from peers.bare_machine import BareMachine, plain_machine
from tandem.wire.control import BODIES, Command
from tests.attacks.bare_pair import paired_machine
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done, get_random
from tests.integration.vtpm.pair_harness import PairUnderTest, gone


@contextlib.contextmanager
def resumed(saved: Path, directory: Path) -> Iterator[BareMachine]:
    """Resume a saved machine beside a swtpm of its own."""
    directory.mkdir()
    with (
        plain.swtpm(directory) as control,
        plain_machine(control, "-incoming", f"exec:cat {saved}") as found,
    ):
        found.machine.wait_for_status("paused")
        found.machine.qmp("cont")
        yield found.machine


def test_control_two_guests_with_one_vtpm_go_on(control: Path, tmp_path: Path) -> None:
    # Given a measured guest, saved while it runs
    saved = tmp_path / "saved"
    with plain_machine(control) as original:
        machine = original.machine
        machine.run_until()
        measure(machine)
        good = quoted(machine, tuple(GOOD_BOOT))
        machine.qmp("migrate", uri=f"exec:cat > {saved}")
        machine.wait_for_status("postmigrate")

    # When it is resumed twice, at the same time
    with resumed(saved, tmp_path / "a") as one, resumed(saved, tmp_path / "b") as two:
        drawn = [done(each, get_random(32)).parameters for each in (one, two)]
        quotes = [quoted(each, tuple(GOOD_BOOT)) for each in (one, two)]

    # Then both draw the same random numbers, and stock tools accept both as the guest's
    assert drawn[0] == drawn[1]
    for quote in quotes:
        assert quote.passes_checkquote(tmp_path)
        assert quote.ak.name == good.ak.name
        assert quote.quote.pcr_digest == good.quote.pcr_digest
        assert quote.quote.reset_count == good.quote.reset_count


def test_a_paired_machine_cannot_be_saved(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a measured guest, and a host that has its monitor
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()
    measure(machine)
    before = quoted_registers(machine)

    # When it is saved by migration and by snapshot
    migrated = machine.qmp("migrate", uri="exec:cat >/dev/null")
    snapshot = machine.qmp("human-monitor-command", **{"command-line": "savevm fork"})

    # Then QEMU refuses both because of its TPM, and the pair goes on
    assert "TPM emulator does not support migration" in migrated["error"]["desc"]
    assert "Error" in snapshot["return"]
    assert quoted_registers(machine) == before
    assert not gone(pair.pidfd, 0.2)


def test_a_saved_machine_is_not_resumed_beside_a_vtpm(
    control: Path, make_pair: Callable[..., PairUnderTest]
) -> None:
    # Given a machine that was saved with its vTPM's state, where that is possible
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as saved:
        Path(saved.name).chmod(0o644)
        with plain_machine(control) as original:
            original.machine.run_until()
            original.machine.qmp("migrate", uri=f"exec:cat > {saved.name}")
            original.machine.wait_for_status("postmigrate")

        # When it is resumed beside a vTPM that waits for its guest
        pair = make_pair()
        pair.ready()
        paired_machine(pair, "-incoming", f"exec:cat {saved.name}")

        # Then QEMU gives up for want of the TPM's state, and so nothing is left of the pair
        assert gone(pair.guest_pidfd, 20.0)
        assert gone(pair.pidfd, 1.0)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_vtpm_gives_and_takes_no_state(pair: PairUnderTest, kind: int) -> None:
    # Given a pair, whose hypervisor is in the attacker's hands
    # When it asks for permanent, volatile or saved state, and offers some
    given = pair.ask_raw(
        Command.GET_STATEBLOB.to_bytes(4) + BODIES[Command.GET_STATEBLOB].pack(1, kind, 0), 16
    )
    pair.ask(Command.STOP)
    taken = pair.ask_raw(
        Command.SET_STATEBLOB.to_bytes(4)
        + BODIES[Command.SET_STATEBLOB].pack(0, kind, 4)
        + b"fork",
        4,
    )
    resumed = pair.ask(Command.INIT, 1)  # with the volatile state of a migration

    # Then each is refused, and what is given is empty
    assert given[:4] != bytes(4)
    assert given[4:] == bytes(12)
    assert taken != bytes(4)
    assert resumed != bytes(4)


def quoted_registers(machine: BareMachine) -> bytes:
    """Give the digest of the measured registers."""
    return quoted(machine, (*GOOD_BOOT, 17, 18)).quote.pcr_digest
