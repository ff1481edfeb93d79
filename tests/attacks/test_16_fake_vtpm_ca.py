"""16: somebody on the host runs swtpm's CA by hand, and it certifies any EK that he likes.

Attacker: root's helper on the host, who reads the files of a software CA.
Control: `swtpm_localca` and a verifier that trusts its root, as libvirt sets them up.
Shows: the enrolled host's CA did not certify it: vtpm-ek-is-certified and issuing-key-is-certified
are broken.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tandem.appraisal.appraise import Given, appraise
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.certificate_files import parse_certificates
from tests.unit.appraisal.forge import NONCE, NOW, Forge, new_key


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """Give the directory of swtpm's CA, with its configuration."""
    (tmp_path / "conf").write_text(
        f"statedir = {tmp_path}/ca\nsigningkey = {tmp_path}/ca/key.pem\n"
        f"issuercert = {tmp_path}/ca/issuer.pem\ncertserial = {tmp_path}/ca/serial\n"
    )
    (tmp_path / "options").write_text("--platform-manufacturer T\n--platform-model T\n")
    (tmp_path / "ca").mkdir()
    return tmp_path


def certify_by_hand(ca: Path, ek: rsa.RSAPublicKey) -> bytes:
    """Have swtpm's CA certify an EK (DER)."""
    subprocess.run(
        [
            *("swtpm_localca", "--type", "ek", "--ek", f"{ek.public_numbers().n:x}", "--vmid", "x"),
            *("--dir", str(ca), "--logfile", str(ca / "log"), "--tpm2"),
            *("--configfile", str(ca / "conf"), "--optsfile", str(ca / "options")),
            *("--tpm-spec-family", "2.0", "--tpm-spec-revision", "164", "--tpm-spec-level", "0"),
            *("--tpm-manufacturer", "id:54444D00", "--tpm-model", "Tandem vTPM"),
            *("--tpm-version", "id:00010000"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return (ca / "ek.cert").read_bytes()


def rogue_ek() -> rsa.RSAPublicKey:
    return rsa.generate_private_key(65537, 2048).public_key()


def test_control_any_ek_is_certified_and_the_certificate_holds(ca: Path) -> None:
    # Given an EK that no vTPM of this host has
    ek = rogue_ek()

    # When swtpm's CA is run by hand, and a verifier checks the certificate by the CA's root
    der = certify_by_hand(ca, ek)
    (ca / "ek.pem").write_bytes(_pem(der))
    roots = ["-CAfile", str(ca / "ca" / "swtpm-localca-rootca-cert.pem")]
    checked = subprocess.run(
        [
            *("openssl", "verify", "-ignore_critical", *roots),
            *("-untrusted", str(ca / "ca" / "issuer.pem"), str(ca / "ek.pem")),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    # Then it holds
    assert checked.stdout.strip().endswith("OK"), checked.stderr


def test_a_certificate_made_by_hand_vouches_for_no_vtpm(ca: Path) -> None:
    # Given a pair's evidence, in which the record names the rogue EK, and its certificate
    ek = rogue_ek()
    forge = Forge(ek=ek)
    der = certify_by_hand(ca, ek)
    above = parse_certificates((ca / "ca" / "issuer.pem").read_bytes())
    given = Given(
        host_log=forge.host_log,
        ima_log=forge.kernel.log,
        ek_certificates=der + b"".join(each.der for each in above),
    )

    # When it is appraised
    verdict = appraise(forge.evidence(), forge.policy(), NONCE, NOW, given)

    # Then the EK is not certified, and nothing else is wrong
    against = [each for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert [each.rule for each in against] == [Rule.EK_CERTIFIED.title]


def test_an_issuing_key_made_by_hand_certifies_no_ak() -> None:
    # Given a CA of the attacker's own with the name of the group's, and an AK certified by it
    forge = Forge(rogue_ca=new_key())

    # When the evidence is appraised
    verdict = forge.verdict()

    # Then the enrolled host's CA did not certify the issuing key
    assert verdict.tier is Tier.CONTRAINDICATED
    found = {each.rule: each for each in verdict.findings}[Rule.ISSUER_CERTIFIED.title]
    assert found.tier is Tier.CONTRAINDICATED
    assert "another key" in found.found


def _pem(der: bytes) -> bytes:
    done = subprocess.run(
        ["openssl", "x509", "-inform", "DER"],
        input=der,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout
