"""11: a guest starts again, as something else, and the registers of its last boot are still there.

Attacker: the guest's kernel, and a host that starts another machine or firmware for it.
Control: QEMU on swtpm: the good boot ends with Shutdown(STATE), a second QEMU with other firmware
resumes the registers; and a reset that is kept from swtpm leaves them as they were.
Shows: a reboot is a new pair; the old vTPM is gone, the new one's registers are blank and measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peers.bare_machine import plain_machine
from peers.tiny_kernel import HALTED_FIRMWARE
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import paired_machine
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done, run
from tests.integration.vtpm.pair_harness import PairUnderTest, gone

REGISTERS = (0, 4, 7, 8, 9)
VALUE_1 = 0x1C4  # TPM_RC_VALUE of the first parameter


def test_control_another_boot_has_the_good_ones_registers(control: Path, tmp_path: Path) -> None:
    # Given a good boot, quoted; then its kernel saves the registers, and the machine is killed
    firmware = tmp_path / "firmware"
    firmware.write_bytes(HALTED_FIRMWARE)
    with plain_machine(control) as plain:
        plain.machine.run_until()
        measure(plain.machine)
        good = quoted(plain.machine, REGISTERS)
        done(plain.machine, tpm.shutdown(StartupType.STATE))

    # When the guest is started again with other firmware, which resumes them
    with plain_machine(control, "-bios", str(firmware)) as plain:
        done(plain.machine, tpm.startup(StartupType.STATE))
        forged = quoted(plain.machine, REGISTERS)

    # Then stock tools accept its quote as the good boot's
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == good.ak.name
    assert forged.quote.pcr_digest == good.quote.pcr_digest


def test_a_reboot_is_a_new_pair_with_blank_registers(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a good boot that saved its registers
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()
    measure(machine)
    done(machine, tpm.shutdown(StartupType.STATE))

    # When the guest resets itself, which ends the machine, and is launched again
    machine.qmp("system_reset")
    machine.qmp("cont")
    assert gone(pair.pidfd, 2.0)
    assert gone(pair.guest_pidfd, 2.0)
    again = make_pair()
    again.ready()
    second = paired_machine(again, firmware=HALTED_FIRMWARE)
    resumed = run(second, tpm.startup(StartupType.STATE)).code
    done(second, tpm.startup(StartupType.CLEAR))

    # Then the old registers cannot be resumed, and the new ones are blank
    assert resumed == VALUE_1
    for register in GOOD_BOOT:
        assert done(second, tpm.pcr_read([register])).parameters[-32:] == bytes(32)
    assert done(second, tpm.pcr_read([17])).parameters[-32:] != b"\xff" * 32
