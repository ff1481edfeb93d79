"""2: a guest sleeps (S3) without Shutdown(STATE); it wakes with registers to forge anew.

Attacker: the guest's kernel; the host wakes it.
Control: QEMU on swtpm; the wake resets the TPM, and a good boot's digests are extended again
(Han and others, USENIX Security 2018; CVE-2018-6622).
Shows: ACPI offers no S3; a kernel that writes the sleep register all the same never gets its TPM
back: the wake's INIT ends the pair (TDM-VTPM-RESET-REFUSED), with a Shutdown(STATE) as without.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peers.bare_machine import BareMachine, plain_machine
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.launch_plan import machine_configuration
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import paired_machine
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest, gone
from tests.unit.appraisal.forge import Forge

PM1_CONTROL = 0x604  # ICH9 with the base that SeaBIOS gives it; ACPI 6.5, 4.8.3.2.1
SLEEP_S3 = 1 << 10 | 1 << 13  # SLP_TYP as QEMU has it, and SLP_EN
EVIL = {9: b"\xee" * 32}


def sleep(machine: BareMachine) -> None:
    """Write the sleep register, as the guest's kernel does at the end of its suspend."""
    machine.qmp("cont")
    machine.out(PM1_CONTROL, SLEEP_S3, "w")
    machine.wait_for_status("suspended")


def test_control_a_woken_guest_forges_its_good_boot(control: Path, tmp_path: Path) -> None:
    # Given a guest whose good boot was quoted, and that has loaded something else since
    with plain_machine(control) as plain:
        machine = plain.machine
        machine.run_until()
        measure(machine)
        good = quoted(machine, tuple(GOOD_BOOT))
        measure(machine, EVIL)

        # When it sleeps without saving the TPM's state, and is woken
        sleep(machine)
        machine.qmp("system_wakeup")
        machine.wait_until_said(b"In resume")
        machine.qmp("stop")
        machine.transceive(tpm.startup(StartupType.CLEAR))
        measure(machine)
        forged = quoted(machine, tuple(GOOD_BOOT))

    # Then stock tools accept its quote as the good boot's
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == good.ak.name
    assert forged.quote.pcr_digest == good.quote.pcr_digest


@pytest.mark.parametrize("orderly", [False, True])
def test_a_guest_that_sleeps_ends_at_its_wake(
    make_pair: Callable[..., PairUnderTest], orderly: bool
) -> None:
    # Given a measured guest in the machine that the builder makes
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()
    measure(machine)
    if orderly:
        done(machine, tpm.shutdown(StartupType.STATE))

    # When its kernel goes to sleep past ACPI, and it is woken
    sleep(machine)
    machine.qmp("system_wakeup")

    # Then the reset of its TPM is the end of both halves
    assert pair.ended().code == "TDM-VTPM-RESET-REFUSED"
    assert gone(pair.pidfd, 1.0)
    assert gone(pair.guest_pidfd, 1.0)


def test_the_measured_machine_offers_no_sleep_state() -> None:
    # Given a library's entry
    entry = Forge().manifest.entries["web"]
    assert isinstance(entry, GuestEntry)

    # When its machine is laid out, as it is measured and as QEMU is started
    chosen = machine_configuration(entry, "tcg")["globals"]

    # Then S3 and S4 are off
    assert isinstance(chosen, dict)
    assert chosen["ICH9-LPC.disable_s3"] == chosen["ICH9-LPC.disable_s4"] == "1"


@pytest.mark.parametrize("counts", [(4, 0), (3, 2)])
def test_a_resume_or_reset_is_told_by_the_counts(counts: tuple[int, int]) -> None:
    # Given complete evidence whose vTPM was reset, or resumed, since its launch
    forge = Forge(counts=counts)

    # When it is appraised
    verdict = forge.verdict()

    # Then that alone is against it, by name
    against = [each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert against == [Rule.VTPM_NOT_RESET.title]
