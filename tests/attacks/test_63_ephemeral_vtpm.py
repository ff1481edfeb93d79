"""63: a vTPM that is made anew at each boot is passed off as the persistent one of its name.

Attacker: whoever manages the host.
Control: a plain swtpm on an empty directory each time, and a verifier that asks for a certified EK
of that name, any.
Shows: a policy names the EK that stays; another one breaks vtpm-is-expected, which shows both.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from peers.shared_swtpm import shared_swtpm
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.ek_template import rsa_ek_name
from tests.attacks.quoting_tpm import quoted
from tests.unit.appraisal.forge import Forge


def test_control_each_boot_has_other_keys_and_quotes_all_the_same(tmp_path: Path) -> None:
    # Given a swtpm for "the" guest, on an empty directory at each of two boots
    boots = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        with shared_swtpm(tmp_path / str(number)) as tpm:
            boots.append(quoted(tpm))

    # When a verifier checks each quote by the key that comes with it
    # Then both hold, and nothing tells that the TPM is another
    assert [boot.holds for boot in boots] == [True, True]
    assert boots[0].ak.name != boots[1].ak.name


def test_a_policy_names_the_ek_that_stays() -> None:
    # Given a policy for the vTPM that was seen first, and evidence of one made anew since
    forge = Forge()
    seen = rsa_ek_name(forge.ek)
    anew = Forge(ek=rsa.generate_private_key(65537, 2048).public_key())
    anew.policy_changes = forge.policy_changes = {"ek_name": seen, "vtpm": "web-01"}

    # When both are appraised
    first, second = forge.verdict(), anew.verdict()

    # Then only the first is trusted, and the finding names both keys
    against = [each for each in second.findings if each.tier is Tier.CONTRAINDICATED]
    assert first.word == "trusted"
    assert [each.rule for each in against] == [Rule.VTPM_EXPECTED.title]
    assert seen is not None
    assert seen.hex() in against[0].found
