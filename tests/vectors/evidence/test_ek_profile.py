"""EK certificates beside those that another implementation of TCG's profile makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tandem.evidence import oids
from tandem.evidence.tpm_types import parse_public
from tandem.manager.issuing import IssuingKeys
from tests.unit.manager.software_host import NOW, ecc_ek, rsa_ek, software_authority

CERTIFICATES = Path(__file__).parents[1] / "data" / "certificates"
SAME = ("2.5.29.9", "2.5.29.15", "2.5.29.19", "2.5.29.37")  # all but names and key identifiers


def extensions(der: bytes) -> dict[str, tuple[bool, bytes]]:
    """Give criticality and content of each extension."""
    certificate = x509.load_der_x509_certificate(der)
    return {
        each.oid.dotted_string: (each.critical, each.value.public_bytes())
        for each in certificate.extensions
    }


@pytest.mark.parametrize(
    ("name", "public"), [("swtpm_ek_rsa.der", rsa_ek()), ("swtpm_ek_ecc.der", ecc_ek())]
)
def test_an_ek_certificate_says_what_swtpms_says(name: str, public: bytes) -> None:
    # Given an EK certificate of swtpm_localca, and one of ours for a key of that kind
    theirs = extensions((CERTIFICATES / name).read_bytes())
    issuing = IssuingKeys(software_authority(), NOW)
    ours = extensions(issuing.ek_certificate(parse_public(public).key, NOW).der)
    # When their extensions are compared
    # Then ours has each of theirs, as critical as there, and the TCG's own with the same content
    assert ours.keys() >= theirs.keys()
    assert {oid: ours[oid][0] for oid in theirs} == {oid: each[0] for oid, each in theirs.items()}
    for oid in SAME:
        assert ours[oid] == theirs[oid]
    assert oids.SUBJECT_DIRECTORY_ATTRIBUTES in theirs
