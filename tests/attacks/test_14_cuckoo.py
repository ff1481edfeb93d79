"""14: malware in a guest forwards the challenge to another TPM, whose guest is good.

Attacker: root in the guest that is asked, with any good guest that answers him.
Control: two swtpm; the challenge to the first is relayed to the second, and a verifier that takes
any certified key accepts the quote (Parno, "Bootstrapping Trust in a Trusted Platform", 2008).
Shows: the Manager names the guest in what is quoted, so the policy's guest-is-expected is broken;
for an equal guest, user-data-is-expected is: the answer was made for another channel.
"""

from __future__ import annotations

from pathlib import Path

from peers.shared_swtpm import shared_swtpm
from tandem.appraisal.rules import Rule
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import Tpm
from tests.attacks.verdicts import against
from tests.unit.appraisal.forge import Forge


class Relay:
    """The device of a guest whose kernel hands each command on."""

    def __init__(self, elsewhere: Tpm) -> None:
        self._elsewhere = elsewhere

    def transceive(self, command: bytes) -> bytes:
        return self._elsewhere.transceive(command)


def test_control_a_relayed_quote_is_accepted(tmp_path: Path) -> None:
    # Given a guest that booted something evil, and a good one elsewhere
    (tmp_path / "evil").mkdir()
    (tmp_path / "good").mkdir()
    with shared_swtpm(tmp_path / "evil") as own, shared_swtpm(tmp_path / "good") as good:
        measure(own, {9: b"\xee" * 32})
        measure(good)
        expected = quoted(good, tuple(GOOD_BOOT)).quote.pcr_digest
        assert quoted(own, tuple(GOOD_BOOT)).quote.pcr_digest != expected

        # When the evil one is asked, and relays
        answer = quoted(Relay(good), tuple(GOOD_BOOT))

    # Then its answer is fresh, signed, and of a good boot
    assert answer.passes_checkquote(tmp_path)
    assert answer.quote.pcr_digest == expected


def test_the_answer_names_the_guest_that_made_it() -> None:
    # Given the policy for web-01, and an answer to its challenge from another good guest
    forge = Forge(guest="web-02")

    # When it is appraised
    verdict = forge.verdict()

    # Then it is of another guest, and nothing else is wrong with it
    assert against(verdict) == [Rule.GUEST_EXPECTED.title]


def test_an_answer_is_for_one_channel() -> None:
    # Given a verifier that speaks over a channel of its own with whoever claims to be web-01
    forge = Forge(user_data=b"key of the channel that the good guest has")
    forge.policy_changes = {"user_data": b"key of the channel that the malware has"}

    # When the real web-01's answer, for its own channel, comes over it
    verdict = forge.verdict()

    # Then it was made for another
    assert against(verdict) == [Rule.USER_DATA.title]
