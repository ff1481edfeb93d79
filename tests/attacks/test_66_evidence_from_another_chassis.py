"""66: evidence comes from another machine than the one that the workload runs on.

Attacker: root on both hosts, or on the way between them (DCEA, arXiv 2510.12469).
Control: two swtpm as two hosts' TPMs that exchange their quotes; a verifier that takes any host of
the fleet accepts both.
Shows: a policy names one host, by the AK that it enrolled: host-ak-is-enrolled is broken; and a
certificate of one host's CA is none on the other.
"""

from __future__ import annotations

from pathlib import Path

from peers.shared_swtpm import shared_swtpm
from tandem.appraisal.rules import Rule
from tests.attacks.quoting_tpm import quoted
from tests.attacks.verdicts import against
from tests.unit.appraisal.forge import Forge


def test_control_two_hosts_exchange_their_quotes(tmp_path: Path) -> None:
    # Given two hosts of one fleet
    fleet, answers = set(), {}
    for name in ("berlin", "elsewhere"):
        (tmp_path / name).mkdir()
        with shared_swtpm(tmp_path / name) as tpm:
            answers[name] = quoted(tpm)
            fleet.add(answers[name].ak.name)

    # When Berlin's challenge is answered from elsewhere
    answer = answers["elsewhere"]

    # Then it is fresh, signed, and of the fleet
    assert answer.passes_checkquote(tmp_path)
    assert answer.ak.name in fleet


def test_a_policy_names_one_host() -> None:
    # Given a guest on an enrolled host, and the policy that names another enrolled one
    forge, berlin = Forge(), Forge()
    forge.enrolled_ak = berlin.host_ak

    # When its evidence is appraised by that
    verdict = forge.verdict()

    # Then the pTPM's quote is another host's
    assert against(verdict) == [Rule.HOST_AK_ENROLLED.title]


def test_a_pair_certified_by_another_hosts_ca_is_not_of_this_one() -> None:
    # Given a host that quotes for a pair of another host
    forge = Forge(rogue_ca=Forge().ca)

    # When its evidence is appraised
    verdict = forge.verdict()

    # Then this host's CA did not certify it
    assert Rule.ISSUER_CERTIFIED.title in against(verdict)
