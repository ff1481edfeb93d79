"""25: a file is changed while it is used, so the IMA list has zeros in place of its digest.

Attacker: root on the measured system.
Control: a plain swtpm as its TPM, and a verifier that looks the digests up and passes zeros over,
as there were.
Shows: a violation is a finding (ima-list-has-no-violations) unless the policy allows that file by
name; it cannot be taken out of the list.
"""

from __future__ import annotations

import hashlib

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.ima_log import ImaEntry, parse_ima_log, replay_ima
from tandem.wire import tpm_commands as tpm
from tests.attacks.tpm import done
from tests.unit.appraisal.forge import Forge, kernel_of_the_host

KNOWN = {"boot_aggregate", "/usr/bin/python3.11"}  # the reference list, in short
SCRIPT = "/usr/local/bin/run.sh"


def passes_zeros_over(entries: tuple[ImaEntry, ...]) -> bool:
    """Judge as a verifier does that knows no violations."""
    return all(entry.path in KNOWN for entry in entries if any(entry.template_digest))


def test_control_a_violation_is_passed_over(shared: SharedTpm) -> None:
    # Given a system that ran a script while somebody wrote it, and its TPM
    kernel = kernel_of_the_host()
    kernel.violate(SCRIPT)
    entries = parse_ima_log(kernel.log)
    for entry in entries:
        digest = b"\xff" * 32 if entry.violates else hashlib.sha256(entry.data).digest()
        done(shared, tpm.pcr_extend(10, {tpm.SHA256: digest}))

    # When a verifier replays the list and looks up each digest
    replayed = replay_ima(entries, done(shared, tpm.pcr_read([10])).parameters[-32:])

    # Then the list explains the register, and every digest is known
    assert replayed is not None
    assert passes_zeros_over(entries)


def test_a_violation_is_named_unless_the_policy_allows_that_file() -> None:
    # Given a host whose kernel let a script be changed while it ran
    kernel = kernel_of_the_host()
    kernel.violate(SCRIPT)
    forge = Forge(kernel=kernel)

    # When its evidence is appraised, by a strict policy and by one that allows that file
    strict = forge.verdict()
    forge.policy_changes = {"ima_violations": (SCRIPT,)}
    lenient = forge.verdict()

    # Then the first names it, and the second trusts and names it
    [against] = [each for each in strict.findings if each.tier is not Tier.AFFIRMING]
    assert against.rule == Rule.IMA_CLEAN.title
    assert SCRIPT in against.found
    assert lenient.word == "trusted"
    assert any(SCRIPT in each.found for each in lenient.findings)


def test_a_violation_cannot_be_taken_out_of_the_list() -> None:
    # Given the same host, and a list without the violation
    kernel = kernel_of_the_host()
    kernel.violate(SCRIPT)
    shortened = kernel_of_the_host()
    shortened.values = kernel.values  # what the TPM holds

    # When its evidence is appraised
    verdict = Forge(kernel=shortened).verdict()

    # Then the list does not lead to the quoted register
    against = {each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED}
    assert against == {Rule.IMA_REPLAYS.title}
