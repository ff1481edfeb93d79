"""17: the quote of a guest here and the quote of a host there are shown as one answer.

Attacker: root on a host, or on the way, with two valid quotes of two machines.
Control: two swtpm, one for a guest and one for a host, of different machines; a verifier that looks
at each quote alone accepts them together.
Shows: the host's quote is over a tree in which the guest's quote is a leaf:
deep-quote-holds-record-and-vtpm-quote is broken for every combination.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.appraisal.rules import Rule
from tests.attacks.quoting_tpm import measure, quoted
from tests.attacks.verdicts import against
from tests.unit.appraisal.forge import Forge

OF_THE_HOST = ("ptpm_attest", "ptpm_signature", "ptpm_pcrs", "host_ak")
OF_THE_TREE = ("salt", "leaf_index", "tree_size", "path")


def test_control_quotes_of_two_machines_pass_as_one(tmp_path: Path) -> None:
    # Given a guest's vTPM on a bad host, and the TPM of a good one
    for name in ("guest", "bad", "good"):
        (tmp_path / name).mkdir()
    with (
        shared_swtpm(tmp_path / "guest") as guest,
        shared_swtpm(tmp_path / "bad") as bad,
        shared_swtpm(tmp_path / "good") as good,
    ):
        measure(guest)
        measure(bad, {0: b"\xee" * 32})

        # When the guest's quote is shown with the good host's, for the same nonce
        answers = [quoted(guest), quoted(good)]
        its_own = quoted(bad)

    # Then both hold, and nothing says that they are of two machines
    assert all(each.passes_checkquote(tmp_path) for each in answers)
    assert its_own.quote.pcr_digest != answers[1].quote.pcr_digest


@pytest.mark.parametrize("taken", [OF_THE_HOST, (*OF_THE_HOST, *OF_THE_TREE)])
def test_a_hosts_quote_holds_the_guests_that_were_its_own(taken: tuple[str, ...]) -> None:
    # Given a guest on a bad host, and the answer of a good, enrolled host for another guest
    forge, elsewhere = Forge(), Forge(guest="db-01")
    forge.enrolled_ak = elsewhere.host_ak
    answer = elsewhere.answer()

    # When the good host's half is put in the place of the bad one's
    forge.answer_changes = {name: getattr(answer, name) for name in taken}
    verdict = forge.verdict()

    # Then it does not hold this guest
    assert Rule.LEAF_QUOTED.title in against(verdict)


def test_the_combination_fails_for_nothing_but_that() -> None:
    # Given both halves of one host
    forge = Forge()

    # When they are appraised
    # Then they are trusted
    assert forge.verdict().word == "trusted"
