"""Revocation lists: what would change what a list says is refused, and one CA's word is its own."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tandem.errors import UntrustedInput
from tandem.evidence.revocation import MAX_LIST, parse_revocation_list, signed_by
from tests.unit.appraisal.certificate_maker import NOW, Maker, name

NUMBER = x509.CRLNumber(3)
USERS_ALONE = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=True,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)
CA = Maker("group")


def crl(*critical: x509.ExtensionType, number: x509.CRLNumber | None = NUMBER) -> bytes:
    """A list by the CA; what is given goes in as critical extensions."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name("group"))
        .last_update(NOW)
        .next_update(NOW + timedelta(days=7))
    )
    for extension, is_critical in [(number, False), *((each, True) for each in critical)]:
        if extension is not None:
            builder = builder.add_extension(extension, is_critical)
    return builder.sign(CA.key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (crl(USERS_ALONE), "critical extension 2.5.29.28"),
        (crl(x509.DeltaCRLIndicator(1)), "critical extension 2.5.29.27"),
        (crl(number=None), "no CRL number"),
        (crl()[:-1], "malformed"),
        (b"-----BEGIN X509 CRL-----", "malformed"),
        (bytes(MAX_LIST + 1), "more than"),
    ],
)
def test_a_list_that_says_less_than_all_is_refused(data: bytes, words: str) -> None:
    # Given a list of some certificates alone, of changes alone, without a number, or none
    # When it is read
    with pytest.raises(UntrustedInput) as caught:
        parse_revocation_list(data)
    # Then the refusal says why
    assert words in caught.value.problem


def test_a_list_is_its_own_cas_alone() -> None:
    # Given a list by a CA
    found = parse_revocation_list(crl())
    others = {"other key": Maker("group"), "other name": Maker("G", key=CA.key)}

    # When it is asked who signed it
    # Then it is that CA, no other of its name or key, and nothing that is no CA
    assert signed_by(found, CA.self_issued())
    assert not any(signed_by(found, each.self_issued()) for each in others.values())
    assert not signed_by(found, Maker("group", key=CA.key, is_ca=False).issued_by(CA))
