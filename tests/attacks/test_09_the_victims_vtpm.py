"""9: a guest is configured with the vTPM of another one, by its path or by its name.

Attacker: an administrator who writes guests' configurations, or a hypervisor of another tenant.
Control: a second QEMU whose command line has the victim's swtpm socket: it quotes with the
victim's key (xl vtpm-attach with the victim's UUID is the same).
Shows: no configuration names a vTPM by a path; a machine of another pair is a stranger to it
(TDM-VTPM-STRANGER); the Manager names the record's guest, so that another guest's evidence is told
(guest-is-expected).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.good_run import GUEST
from demo.stage import Stage
from peers.bare_machine import plain_machine
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.launch_plan import machine_configuration
from tests.attacks.bare_pair import paired_machine
from tests.attacks.quoting_tpm import quoted
from tests.integration.vtpm.pair_harness import PairUnderTest, gone
from tests.unit.appraisal.forge import Forge

MALLORY = "mallory"


@pytest.fixture
def hosted(stage: Stage) -> Iterator[Stage]:
    """A host, without guests afterwards."""
    yield stage
    for guest in (GUEST, MALLORY):
        stage.tandem("guest", "stop", guest, "--kill", expect=None)


def test_control_another_guest_quotes_with_the_victims_key(control: Path, tmp_path: Path) -> None:
    # Given a victim whose key a verifier knows
    with plain_machine(control) as victim:
        victim.machine.run_until()
        known = quoted(victim.machine)

    # When an attacker's machine is configured with the victim's socket
    with plain_machine(control) as mallory:
        mallory.machine.run_until()
        forged = quoted(mallory.machine)

    # Then stock tools accept its quote as the victim's
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == known.ak.name
    assert forged.quote.pcr_digest == known.quote.pcr_digest


def test_a_machine_of_another_pair_is_a_stranger_to_the_vtpm(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a victim's vTPM that waits for its guest, and another pair's
    victim, other = make_pair(vtpm="victim"), make_pair(vtpm="mallory")
    victim.ready()
    other.ready()

    # When QEMU of the other pair is given the victim's channel
    paired_machine(other, control=victim.control.fileno())

    # Then the victim's vTPM ends without an answer: that machine is not of its PID namespace
    assert victim.ended().code == "TDM-VTPM-STRANGER"
    assert gone(victim.pidfd, 1.0)


def test_a_guest_gets_the_vtpm_of_its_own_name(hosted: Stage) -> None:
    # Given a victim and a guest of another name, built from the same entry
    [victim] = hosted.ask("guest", "start", GUEST)
    [mallory] = hosted.ask("guest", "start", MALLORY, "--entry", GUEST)

    # When their vTPMs are compared, and the victim's name is asked for again
    refusal = hosted.refusal("guest", "start", GUEST)
    states = {path.name for path in (hosted.host / "vtpm").iterdir()}

    # Then each has its own, and the name is taken
    assert mallory["vtpm_pid"] != victim["vtpm_pid"]
    assert {GUEST, MALLORY} <= states
    assert refusal["code"] == "TDM-GUEST-RUNNING"


def test_no_measured_configuration_names_a_vtpm() -> None:
    # Given a library's entry
    entry = Forge().manifest.entries["web"]
    assert isinstance(entry, GuestEntry)

    # When its machine is laid out
    devices = machine_configuration(entry, "tcg")["devices"]

    # Then its TPM has a model, and no path, address or identity that could be another's
    assert isinstance(devices, list)
    [vtpm] = [device for device in devices if device["driver"].startswith("tpm")]
    assert vtpm.keys() <= {"driver", "id", "ppi"}


def test_evidence_of_another_guest_is_told_by_its_record() -> None:
    # Given genuine evidence of mallory, for a verifier who asked the victim
    forge = Forge(guest=MALLORY, record_changes={"vtpm": MALLORY})

    # When it is appraised by the victim's policy
    verdict = forge.verdict()

    # Then the guest's name is what is against it
    against = [each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert Rule.GUEST_EXPECTED.title in against
    assert verdict.word != "trusted"
