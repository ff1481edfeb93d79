"""68: the host's TPM is reset under the running host, and the log's digests are extended again.

Attacker: somebody at the machine.
Control: a plain swtpm started anew, and a verifier that looks at registers, nonce and signature.
Shows: who resets a TPM is not seen from afar; that it was reset is, and a policy may refuse it
(ptpm-ran-forward).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from peers.shared_swtpm import SharedTpm, shared_swtpm
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.wire import tpm_commands as tpm
from tests.attacks.quoting_tpm import Quoted, quoted
from tests.attacks.tpm import done
from tests.unit.appraisal.forge import Forge


def boot(client: SharedTpm) -> Quoted:
    """Extend what a good boot extends, whoever does it, and quote."""
    for register in (0, 7):
        digest = hashlib.sha256(b"good").digest()
        done(client, tpm.pcr_extend(register, {tpm.SHA256: digest}))
    return quoted(client)


def test_control_a_reset_tpm_quotes_good_registers_again(tmp_path: Path) -> None:
    # Given a host's TPM after a good boot
    with shared_swtpm(tmp_path) as client:
        first = boot(client)

    # When it is reset, and the same is extended by an attacker
    with shared_swtpm(tmp_path) as client:
        second = boot(client)

    # Then key, registers and signature are those of the good boot; the reset count alone is not
    assert (first.holds, second.holds) == (True, True)
    assert first.ak.name == second.ak.name
    assert first.quote.pcr_digest == second.quote.pcr_digest
    assert first.quote.reset_count < second.quote.reset_count


def test_a_reset_is_told_and_a_policy_may_refuse_it() -> None:
    # Given a host whose TPM was reset once since it was enrolled
    forge = Forge(host_counts=(2, 0))

    # When its evidence is appraised, by a policy that takes reboots and by one that does not
    lenient = forge.verdict()
    forge.policy_changes = {"same_boot": True}
    strict = forge.verdict()

    # Then the first says so, and the second refuses it by that alone
    told = {each.rule: each for each in lenient.findings}[Rule.PTPM_FORWARD.title]
    against = [each.rule for each in strict.findings if each.tier is Tier.CONTRAINDICATED]
    assert "resets since enrolment: 1" in told.found
    assert against == [Rule.PTPM_FORWARD.title]
