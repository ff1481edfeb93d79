"""21: the attacker knows the next nonce, and has it quoted before he takes the guest over.

Attacker: whoever sees earlier challenges, and takes the guest over later.
Control: a verifier that counts its nonces up; a quote of swtpm, fetched beforehand, passes.
Shows: a nonce is 32 bytes that nobody can tell beforehand (one that is shorter is refused); a quote
for any guess breaks nonce-is-fresh, and one for another session's channel user-data-is-expected.
"""

from __future__ import annotations

import secrets

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.appraise import appraise
from tandem.appraisal.rules import Rule
from tandem.evidence.attest import parse_quote
from tandem.evidence.deep_quote import NONCE_SIZE
from tandem.evidence.vtpm_ak import vtpm_ak_template
from tandem.wire import tpm_commands as tpm
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done
from tests.attacks.verdicts import against
from tests.unit.appraisal.forge import NOW, Forge


class CountingVerifier:
    """A verifier whose nonces are fresh, each once, and no secret."""

    def __init__(self) -> None:
        self._number = 7

    def challenge(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(NONCE_SIZE)


def quote_for(client: SharedTpm, nonce: bytes) -> tuple[bytes, bytes]:
    """Quote for a nonce; gives its qualifying data and the digest of the registers."""
    made = done(client, tpm.create_primary(tpm.ENDORSEMENT, vtpm_ak_template()), with_handle=True)
    answer = done(client, tpm.quote(made.handle, b"", nonce, tuple(GOOD_BOOT))).parameters
    done(client, tpm.flush_context(made.handle))
    quote = parse_quote(answer[2 : 2 + int.from_bytes(answer[:2])])
    return quote.qualifying_data, quote.pcr_digest


def test_control_a_quote_for_the_next_number_was_there_before(shared: SharedTpm) -> None:
    # Given a verifier that counts, whose last challenge the attacker saw, and a guest that is good
    verifier = CountingVerifier()
    seen = verifier.challenge()
    measure(shared)
    good = quoted(shared, tuple(GOOD_BOOT)).quote.pcr_digest

    # When he fetches the quote for the next number, and only then takes the guest over
    fetched = quote_for(shared, (int.from_bytes(seen) + 1).to_bytes(NONCE_SIZE))
    measure(shared, {9: b"\xee" * 32})

    # Then it answers the next challenge, with the registers of a good guest
    assert fetched == (verifier.challenge(), good)


def test_an_answer_to_a_guess_is_not_fresh() -> None:
    # Given answers to the nonces that follow the last one, fetched beforehand
    last = secrets.token_bytes(NONCE_SIZE)
    guesses = [((int.from_bytes(last) + n) % 2**256).to_bytes(NONCE_SIZE) for n in range(1, 4)]
    fetched = [Forge(nonce=guess) for guess in guesses]

    # When the verifier draws its next nonce as the CLI and the attester's document say: at random
    nonce = secrets.token_bytes(NONCE_SIZE)

    # Then each of them is refused by it
    for forge in fetched:
        assert against(forge.verdict(nonce=nonce)) == [Rule.NONCE_FRESH.title]


def test_an_answer_fetched_in_another_session_is_for_another_channel() -> None:
    # Given an answer that was fetched for the right nonce, on another channel
    forge = Forge(user_data=b"the session before")
    forge.policy_changes = {"user_data": b"this session"}

    # When it is appraised
    # Then it is not for this one
    assert against(forge.verdict()) == [Rule.USER_DATA.title]


def test_a_short_nonce_is_never_matched() -> None:
    # Given evidence, and a verifier that was given a nonce too short to be unguessable
    forge = Forge()

    # When it is appraised for its first bytes
    verdict = appraise(forge.evidence(), forge.policy(), forge.nonce[:4], NOW, forge.given())

    # Then that is not the nonce that was asked for
    assert Rule.NONCE_FRESH.title in against(verdict)
