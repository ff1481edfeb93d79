"""69: a vTPM that was destroyed, and so revoked, is brought back from a copy and attests on.

Attacker: an operator with an old copy.
Control: a plain swtpm, its directory deleted and restored.
Shows: what a verifier releases depends on its verdict, and the verdict knows: vtpm-is-not-revoked
is broken.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from peers.shared_swtpm import shared_swtpm
from tandem.appraisal.appraise import appraise
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.certificates import parse_certificate
from tests.attacks.quoting_tpm import quoted
from tests.unit.appraisal.forge import NONCE, NOW, Forge


def test_control_a_destroyed_vtpm_quotes_on_from_a_copy(tmp_path: Path) -> None:
    # Given a swtpm whose directory was copied, then deleted
    state = tmp_path / "state"
    state.mkdir()
    with shared_swtpm(state) as tpm:
        before = quoted(tpm)
    shutil.copytree(state, tmp_path / "copy")
    shutil.rmtree(state)

    # When the copy is started
    with shared_swtpm(tmp_path / "copy") as tpm:
        after = quoted(tpm)

    # Then it has the same key, and its quote holds
    assert after.holds
    assert after.ak.name == before.ak.name


def test_evidence_of_a_revoked_vtpm_is_refused_by_the_list() -> None:
    # Given evidence, made before the group's administrator destroyed its vTPM
    forge = Forge()
    answer = forge.answer()
    forge.answer = lambda: answer  # type: ignore[method-assign]
    evidence, before = forge.evidence(), forge.policy()
    forge.revoked = (parse_certificate(answer.ak_certificate).serial,)
    after = forge.policy()

    # When it is appraised by the list from before and by the one from after
    first = appraise(evidence, before, NONCE, NOW, forge.given())
    second = appraise(evidence, after, NONCE, NOW, forge.given())

    # Then the newer list alone refuses it
    against = [each.rule for each in second.findings if each.tier is Tier.CONTRAINDICATED]
    assert first.word == "trusted"
    assert against == [Rule.NOT_REVOKED.title]
