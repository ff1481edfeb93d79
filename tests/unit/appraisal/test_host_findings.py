"""The host since its enrolment: what it may do, what is doubted, and what each verdict says."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from cryptography import x509

from tandem.appraisal.appraise import appraise
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.bundle import add_host_logs
from tandem.evidence.certificate_files import der_parts
from tandem.evidence.certificates import parse_certificate
from tests.unit.appraisal.forge import (
    NONCE,
    NOW,
    Forge,
    finding,
    host_log_of,
    kernel_of_the_host,
)

DAY = datetime.timedelta(days=1)
BIG_FIRMWARE = 0x0009000000000000


def test_a_host_that_booted_again_is_the_same_host_and_the_verdict_says_so() -> None:
    # Given a host that was reset four times since its enrolment
    forge = Forge(host_counts=(5, 0), host_clock=7_200_000)

    # When its evidence is appraised
    verdict = forge.verdict()

    # Then that is a fact, with clock and firmware, and no failure
    found = finding(verdict, Rule.PTPM_FORWARD.title)
    assert verdict.word == "trusted"
    assert "clock 2.00 h, reset count 5, restart count 0, firmware 0x70002.1" in found.found
    assert "resets since enrolment: 4" in found.found


def test_a_power_cut_may_take_a_little_of_the_clock() -> None:
    # Given a host that lost an hour of its TPM's clock with a reset
    forge = Forge(host_counts=(2, 0), host_clock=0, state_changes={"clock": 3_600_000})
    # When its evidence is appraised
    # Then it is trusted
    assert forge.verdict().word == "trusted"


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        (
            {"record_changes": {"epoch": 4}},
            Rule.HOST_EPOCH,
            ("epoch 4", "enrolled in epoch 1", "restored from a backup"),
        ),
        (
            {"state_changes": {"firmware_version": BIG_FIRMWARE}},
            Rule.PTPM_FORWARD,
            ("firmware 0x70002.1: older firmware", "0x90000.0"),
        ),
        (
            {"revoked_at": NOW - 30 * DAY},
            Rule.NOT_REVOKED,
            ("list 3 of 2026-04-04", "is stale", "2026-04-11"),
        ),
        ({"revoked_at": NOW + DAY}, Rule.NOT_REVOKED, ("is of a later time", "check the clocks")),
    ],
)
def test_what_changed_on_the_host_is_doubted_by_name(
    changes: dict[str, Any], rule: Rule, words: tuple[str, ...]
) -> None:
    # Given a host that is not quite what was enrolled, or a list of another time
    forge = Forge(**changes)

    # When its evidence is appraised
    verdict = forge.verdict()

    # Then that one claim is in doubt and says both sides
    doubts = [each for each in verdict.findings if each.tier is not Tier.AFFIRMING]
    assert [(each.rule, each.tier) for each in doubts] == [(rule.title, Tier.WARNING)]
    assert all(word in doubts[0].found for word in words)


@pytest.mark.parametrize(
    ("window", "words"), [(0, "nothing: "), (60, "up to 60 s of vTPM state could still be rolled")]
)
def test_each_verdict_says_what_could_still_be_rolled_back(window: int, words: str) -> None:
    # Given a strict host and one with a window, and a policy that takes either
    forge = Forge(record_changes={"rollback_window": window})
    # When evidence is appraised
    verdict = forge.verdict()
    # Then it is trusted, and says how far
    assert words in finding(verdict, Rule.ROLLBACK.title).found
    assert verdict.word == "trusted"


@pytest.mark.parametrize("which", ["AK", "issuing key", "EK"])
def test_a_revoked_certificate_is_named_with_its_time(which: str) -> None:
    # Given evidence, and a list with one of its certificates
    forge = Forge(revoked_at=NOW - 30 * DAY)
    answer = forge.answer()
    eks = forge.ek_certificates()
    der = {
        "AK": answer.ak_certificate,
        "issuing key": answer.issuer_certificate,
        "EK": der_parts(eks)[0],
    }[which]
    forge.answer = lambda: answer  # type: ignore[method-assign]
    forge.ek_certificates = lambda: eks  # type: ignore[method-assign]
    forge.revoked = (parse_certificate(der).serial,)

    # When it is appraised by that list, an old one
    found = finding(forge.verdict(), Rule.NOT_REVOKED.title)

    # Then the certificate is revoked all the same
    assert found.tier is Tier.CONTRAINDICATED
    assert f"{forge.revoked[0]:x} on {NOW.isoformat()}" in found.found


def test_what_an_issuing_key_signs_after_its_day_does_not_count() -> None:
    # Given an issuing key of 30 hours ago, kept and used by whoever stole it
    forge = Forge()
    stolen = Forge(ca=forge.ca, issuing_at=NOW - datetime.timedelta(hours=30)).issuing()
    stolen.usable = lambda now: True  # type: ignore[method-assign]
    late = stolen.ak_certificate(forge.vtpm_ak.public_key(), forge.record(), NOW)
    forge.answer_changes = {
        "ak_certificate": late.der,
        "issuer_certificate": stolen.attestation,
    }

    # When its certificate is appraised, while that of the key itself is in force
    verdict = forge.verdict()

    # Then that is the one contradiction
    against = [each for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert [each.rule for each in against] == [Rule.AK_CERTIFIED.title]
    assert "out of its time" in against[0].found


def test_an_ak_certificate_that_says_more_than_is_understood_does_not_count() -> None:
    # Given an issuing key that puts a critical extension of an unknown kind into what it signs
    forge = Forge()
    issuing = forge.issuing()
    issue = issuing._for_aks.issue
    issuing._for_aks.issue = lambda builder: issue(  # type: ignore[method-assign]
        builder.add_extension(x509.OCSPNoCheck(), critical=True)
    )
    forge.issuing = lambda: issuing  # type: ignore[method-assign]

    # When its certificate is appraised
    verdict = forge.verdict()

    # Then that is the one contradiction
    against = [each for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert [each.rule for each in against] == [Rule.AK_CERTIFIED.title]
    assert "unknown critical extension" in against[0].found


def test_an_allowed_violation_is_told() -> None:
    # Given a host with one violation, which the policy allows, and one newer than the quote
    kernel = kernel_of_the_host()
    kernel.violate("/usr/bin/script")
    forge = Forge(kernel=kernel, policy_changes={"ima_violations": ("/usr/bin/script",)})
    evidence, policy = forge.evidence(), forge.policy()
    kernel.violate("/usr/bin/later")

    # When it is appraised with the newer list
    verdict = appraise(evidence, policy, NONCE, NOW, forge.given())

    # Then it is trusted, names the violation, and says how much is newer
    assert verdict.word == "trusted"
    assert "'/usr/bin/script'" in finding(verdict, Rule.IMA_CLEAN.title).found
    assert "3 entries lead to" in finding(verdict, Rule.IMA_REPLAYS.title).found
    assert "1 are newer" in finding(verdict, Rule.IMA_REPLAYS.title).found


def test_logs_in_the_evidence_are_judged_as_those_beside_it() -> None:
    # Given evidence into which its host put its logs
    forge = Forge()
    logs = {"host_log": forge.host_log, "ima_log": forge.kernel.log}
    evidence = add_host_logs(forge.evidence(), logs)

    # When it is appraised without other logs
    verdict = appraise(evidence, forge.policy(), NONCE, NOW)

    # Then they are judged
    assert verdict.word == "trusted"
    assert finding(verdict, Rule.HOST_LOG_REPLAYS.title).tier is Tier.AFFIRMING


def test_what_is_demanded_and_not_given_is_in_doubt() -> None:
    # Given a policy that demands logs and a list, and nothing of it
    forge = Forge()
    policy = forge.policy()

    # When evidence is appraised
    verdict = appraise(forge.evidence(), policy, NONCE, NOW)

    # Then the missing logs are named
    doubts = {each.rule for each in verdict.findings if each.tier is Tier.WARNING}
    assert doubts == {Rule.HOST_LOG_RECORDED.title, Rule.IMA_REPLAYS.title}


def test_what_is_neither_demanded_nor_given_is_a_note_where_it_is_quoted() -> None:
    # Given a policy that demands no logs
    changes = {"event_log": False, "ima_violations": None, "crl_file": None}
    forge = Forge(policy_changes=changes)

    # When evidence is appraised without any
    verdict = appraise(forge.evidence(), forge.policy(), NONCE, NOW)

    # Then it is trusted, and says that PCR 10 was not judged
    assert verdict.word == "trusted"
    assert Rule.IMA_REPLAYS.title not in {each.rule for each in verdict.findings}
    assert any("host PCR 10" in note for note in verdict.notes)


def test_a_demanded_list_that_the_library_was_not_given_is_in_doubt() -> None:
    # Given a policy that names a list which its caller left out
    forge = Forge(policy_changes={"crl_file": "default.crl"})
    forge.crl = lambda: None  # type: ignore[assignment, method-assign, return-value]
    # When evidence is appraised
    # Then the verdict names it
    found = finding(forge.verdict(), Rule.NOT_REVOKED.title)
    assert found.tier is Tier.WARNING


def test_an_event_whose_description_was_changed_is_named() -> None:
    # Given a host's log with a separator that says other than was measured
    log = host_log_of()
    at = log.rindex(bytes(4))
    changed = log[:at] + b"good"
    forge = Forge(host_log=changed)

    # When it is appraised, the record naming that very log
    verdict = forge.verdict()

    # Then the log replays, and its event is the contradiction
    against = [each for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert [each.rule for each in against] == [Rule.HOST_LOG_DESCRIBES.title]
    assert "EV_SEPARATOR in PCR 7" in against[0].found


def test_a_register_that_no_event_explains_is_in_doubt() -> None:
    # Given a host that quotes a register which its log does not mention
    forge = Forge()
    forge.host_pcrs = forge.registers() | {4: b"\x04" * 32}
    # When it is appraised
    found = finding(forge.verdict(), Rule.HOST_LOG_REPLAYS.title)
    # Then that register is named
    assert found.tier is Tier.WARNING
    assert "no event of PCR 4" in found.found
