"""20: an old good quote is sent once more, after the guest changed.

Attacker: the guest's root, its host, or the network.
Control: a quote of swtpm, kept while the guest was good, and a verifier that looks at signature and
registers and not at the qualifying data.
Shows: both TPMs sign the verifier's nonce: nonce-is-fresh is broken; a nonce that is changed in the
answer breaks the signatures' binding instead; and a pTPM that ran backwards is ptpm-ran-forward.
"""

from __future__ import annotations

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.quotes import signature_holds
from tandem.appraisal.rules import Rule
from tandem.evidence.tpm_types import parse_signature
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.verdicts import against
from tests.unit.appraisal.forge import Forge

EARLIER = bytes(reversed(range(32)))


def test_control_a_kept_quote_passes_again(shared: SharedTpm) -> None:
    # Given a quote that was kept while the guest was good; it is so no more
    measure(shared)
    kept = quoted(shared, tuple(GOOD_BOOT))
    measure(shared, {9: b"\xee" * 32})
    assert quoted(shared, tuple(GOOD_BOOT)).quote.pcr_digest != kept.quote.pcr_digest

    # When it is shown to a verifier that checks signature and registers
    signed = signature_holds(kept.ak.key, parse_signature(kept.signature), kept.attest)

    # Then both are good, once more
    assert signed


def test_an_answer_to_an_earlier_challenge_is_told_by_its_nonce() -> None:
    # Given an answer that was made for an earlier challenge
    kept = Forge(nonce=EARLIER)

    # When it is shown for today's
    verdict = kept.verdict()

    # Then that alone is against it
    assert against(verdict) == [Rule.NONCE_FRESH.title]


def test_todays_nonce_written_into_an_old_answer_does_not_help() -> None:
    # Given an old answer, into which the attacker writes today's nonce
    kept = Forge(nonce=EARLIER)
    kept.answer_changes = {"nonce": Forge().nonce}

    # When it is shown
    verdict = kept.verdict()

    # Then the vTPM's quote is for another request
    assert Rule.VTPM_QUOTE_QUALIFIED.title in against(verdict)


def test_a_ptpm_whose_clock_is_behind_the_enrolled_one_is_named() -> None:
    # Given a host quote that is older than the host's enrolment
    forge = Forge(host_clock=1)

    # When it is appraised
    # Then its TPM did not run forward
    assert against(forge.verdict()) == [Rule.PTPM_FORWARD.title]
