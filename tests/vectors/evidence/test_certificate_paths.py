"""Paths of certificates that others made: swtpm's own CA, and TPM vendors' CAs."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tandem.appraisal.certificate_path import find_ek_path, issuing_problem
from tandem.evidence import oids
from tandem.evidence.certificate_extensions import read_extensions
from tandem.evidence.certificates import Certificate, parse_certificate, parse_pem_certificate

CERTIFICATES = Path(__file__).parents[1] / "data" / "certificates"
AT = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)


def certificate(name: str) -> Certificate:
    data = (CERTIFICATES / name).read_bytes()
    return parse_certificate(data) if name.endswith(".der") else parse_pem_certificate(data)


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
def test_an_ek_certificate_of_swtpm_leads_to_its_root(kind: str) -> None:
    # Given what `swtpm_localca` issued, its issuer and its root
    leaf = certificate(f"swtpm_ek_{kind}.der")
    issuer, root = certificate("swtpm_issuer.pem"), certificate("swtpm_root.pem")

    # When the path is looked for
    path = find_ek_path(leaf, [issuer], [root], AT)

    # Then it is found, and the certificate names the TPM
    assert path.certificates == (leaf, issuer, root)
    assert str(read_extensions(leaf).tpm) == "'id:00001014' 'swtpm' id:20191023"


def test_an_ek_certificate_of_swtpm_leads_to_no_vendor() -> None:
    # Given the same with vendors' roots
    leaf, issuer = certificate("swtpm_ek_rsa.der"), certificate("swtpm_issuer.pem")
    roots = [certificate(name) for name in ("INTEL_RT.pem", "STM_RSA_RT.pem", "IFX_RSA_RT.pem")]

    # When the path is looked for
    path = find_ek_path(leaf, [issuer], roots, AT)

    # Then it ends at the CA that nobody vouches for
    assert path.problem == "no certificate of 'CN=swtpm-localca-rootca' leads on to a given root"


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("INTEL_I.pem", "INTEL_RT.pem"),
        ("STM_ECC_01I.pem", "STM_ECC_01RT.pem"),
        ("STM_RSA_07I.pem", "STM_RSA_RT.pem"),
    ],
)
def test_a_vendors_root_may_issue_its_intermediate(lower: str, upper: str) -> None:
    # Given a vendor's intermediate and root, with the critical extensions that they have
    pair = certificate(lower), certificate(upper)

    # When the step between them is judged
    # Then nothing is wrong
    assert not issuing_problem(*pair, below=0, purpose=oids.EK_CERTIFICATE, at=AT)


def test_a_vendors_step_by_sha1_is_refused() -> None:
    # Given an intermediate of the SHA-1 age
    pair = certificate("IFX_RSA_17I.pem"), certificate("IFX_RSA_RT.pem")

    # When the step is judged
    problem = issuing_problem(*pair, below=0, purpose=oids.EK_CERTIFICATE, at=AT)

    # Then its hash is the reason
    assert "signed with sha1 hash" in problem


def test_a_vendors_ca_is_no_ek() -> None:
    # Given a CA in place of an EK certificate
    # When its path is looked for
    path = find_ek_path(certificate("INTEL_I.pem"), [], [certificate("INTEL_RT.pem")], AT)

    # Then it is refused for what it is
    assert path.problem == "the EK certificate is one of a CA"
