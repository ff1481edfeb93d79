"""T11: INIT under a live guest: PCR 0 to 15 are forged anew, and PCR 17 is replayed with them.

Attacker: the guest's kernel with a helper at the control channel; or a machine's reset that QEMU
passes on.
Control: swtpm; after INIT and Startup the same D-RTM sequence gives the same PCR 17, and nothing in
the registers tells of the reset.
Shows: an INIT after the first Startup ends the pair (TDM-VTPM-RESET-REFUSED), whoever causes it;
replaying the sequence is not for a hypervisor; the record's counts tell of a reset
(vtpm-was-not-reset).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peers.swtpm_control import SwtpmControl
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf, paired_machine
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest, gone
from tests.unit.appraisal.forge import Forge

LAUNCH = b"what the builder measured"
REGISTERS = (*GOOD_BOOT, 17)


def launched(swtpm: SwtpmControl) -> None:
    """Start the TPM and measure the launch at locality 4, as swtpm lets everybody do."""
    assert swtpm.ask(Command.INIT, 0) == bytes(4)
    done(swtpm, tpm.startup(StartupType.CLEAR))
    swtpm.ask(Command.HASH_START)
    swtpm.ask(Command.HASH_DATA, len(LAUNCH), data=LAUNCH)
    swtpm.ask(Command.HASH_END)


def test_control_launch_and_boot_registers_are_forged_together(
    control: Path, tmp_path: Path
) -> None:
    # Given a launch that was measured from outside, a good boot, and something else since
    with SwtpmControl(control) as swtpm:
        launched(swtpm)
        measure(swtpm)
        good = quoted(swtpm, REGISTERS)
        measure(swtpm, {9: b"\xee" * 32})

        # When the TPM is initialized under the guest, and launch and boot are played again
        launched(swtpm)
        measure(swtpm)
        forged = quoted(swtpm, REGISTERS)

    # Then every register is as it was, PCR 17 too, and stock tools accept the quote
    assert forged.passes_checkquote(tmp_path)
    assert forged.quote.pcr_digest == good.quote.pcr_digest
    assert forged.ak.name == good.ak.name


def test_a_machine_reset_under_a_live_guest_ends_the_pair(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a real machine whose guest is measured
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()
    measure(machine)

    # When the machine is reset by a host that has its monitor, and QEMU initializes its TPM
    machine.qmp("set-action", reboot="reset")
    machine.qmp("system_reset")

    # Then both halves end, and the vTPM says why
    assert pair.ended().code == "TDM-VTPM-RESET-REFUSED"
    assert gone(pair.pidfd, 1.0)
    assert gone(pair.guest_pidfd, 1.0)


def test_the_launch_cannot_be_played_again_without_a_reset(pair: PairUnderTest) -> None:
    # Given a measured guest
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    before = done(guest, tpm.pcr_read([17])).parameters

    # When its hypervisor starts a D-RTM sequence, as the control does
    answers = [pair.ask(Command.HASH_START)]
    answers.append(pair.ask_raw(command_with(Command.HASH_DATA, LAUNCH), 4))
    answers.append(pair.ask(Command.HASH_END))

    # Then each is refused, and PCR 17 is as it was
    assert bytes(4) not in answers
    assert done(guest, tpm.pcr_read([17])).parameters == before


@pytest.mark.parametrize("counts", [(4, 1), (2, 1), (3, 0)])
def test_counts_that_are_not_the_records_are_a_finding(counts: tuple[int, int]) -> None:
    # Given complete evidence whose counts differ from the pair record's (3, 1)
    forge = Forge(counts=counts)

    # When it is appraised
    verdict = forge.verdict()

    # Then that alone is against it, by name
    against = [each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert against == [Rule.VTPM_NOT_RESET.title]


def command_with(command: Command, data: bytes) -> bytes:
    """Write a control request with data."""
    return command.to_bytes(4) + len(data).to_bytes(4) + data
