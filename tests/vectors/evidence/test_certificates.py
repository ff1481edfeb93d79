"""Certificates of TPM vendors: read, chained, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence import oids
from tandem.evidence.certificates import issued_by, parse_certificate, parse_pem_certificate

CERTIFICATES = Path(__file__).parents[1] / "data" / "certificates"


def pem(name: str) -> bytes:
    return (CERTIFICATES / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("IFX_ECC_042.pem", "ec"), ("IFX_RSA_042.pem", "rsa"), ("STM_RSA_07I.pem", "rsa")],
)
def test_a_vendors_ca_is_read(name: str, algorithm: str) -> None:
    # Given a CA certificate of a TPM vendor
    # When it is read
    certificate = parse_pem_certificate(pem(name))

    # Then it is a CA with a key, and no AK certificate of a pair
    assert certificate.is_ca
    assert algorithm in type(certificate.key).__module__ + type(certificate.key).__name__.lower()
    assert certificate.pair_record_digest is None


def test_a_ca_for_ek_certificates_says_so() -> None:
    # Given an intermediate CA that TCG's profile gives a key usage
    # When it is read
    certificate = parse_pem_certificate(pem("IFX_ECC_042.pem"))

    # Then the usage is that of EK certificates
    assert certificate.usages == (oids.EK_CERTIFICATE,)


@pytest.mark.parametrize(
    ("lower", "upper"), [("STM_ECC_01I.pem", "STM_ECC_01RT.pem"), ("INTEL_I.pem", "INTEL_RT.pem")]
)
def test_an_intermediate_is_issued_by_its_root_and_no_other(lower: str, upper: str) -> None:
    # Given a vendor's intermediate, its root and another vendor's CA
    certificate, root = parse_pem_certificate(pem(lower)), parse_pem_certificate(pem(upper))
    stranger = parse_pem_certificate(pem("IFX_RSA_042.pem"))

    # When each is asked for as the issuer
    # Then only the root is
    assert issued_by(certificate, root)
    assert not issued_by(certificate, stranger)
    assert not issued_by(root, certificate)


@pytest.mark.parametrize("name", ["NTC1.pem", "NUVO_1110.pem"])
def test_a_certificate_whose_sets_are_out_of_order_is_read_and_its_signature_holds(
    name: str,
) -> None:
    # Given a vendor's root whose names are not in DER's order
    # When it is read
    root = parse_pem_certificate(pem(name))

    # Then it signed itself, over the bytes as they were written
    assert "Nuvoton" in root.subject
    assert issued_by(root, root)


def test_a_certificate_out_of_order_that_was_changed_is_not_signed() -> None:
    # Given a vendor's root with one byte of its name changed
    root = parse_pem_certificate(pem("NUVO_1110.pem"))
    changed = parse_certificate(root.der.replace(b"Root CA 1110", b"Root CA 1111"))

    # When its signature is asked for
    # Then it does not hold
    assert changed.subject != root.subject
    assert not issued_by(changed, changed)


def test_an_attribute_certificate_is_refused() -> None:
    # Given a platform certificate, which is an attribute certificate without a key
    # When it is read
    # Then it is refused as input
    with pytest.raises(UntrustedInput):
        parse_certificate(pem("Intel_nuc_pc.cer"))
