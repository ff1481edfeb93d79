"""What all certificates have in common that the Manager issues: X.509 version 3 (RFC 5280)."""

from __future__ import annotations

import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tandem.evidence.tpm_types import PublicKey

DAY: Final = datetime.timedelta(days=1)
SKEW: Final = datetime.timedelta(minutes=5)  # a verifier's clock may be behind
NO_END: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # 4.1.2.5
_USAGES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def certificate(
    *,
    issuer: x509.Name,
    subject: x509.Name,
    key: PublicKey,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    """Begin a certificate, valid from a little before `begin`, with a random serial number."""
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - SKEW)
        .not_valid_after(end)
    )


def signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a certificate with ECDSA and SHA-256; gives DER."""
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def name(common: str, unit: str) -> x509.Name:
    """Give a distinguished name."""
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        x509.NameAttribute(NameOID.COMMON_NAME, common),
    ])  # fmt: skip


def key_usage(**wanted: bool) -> x509.KeyUsage:
    """Give a key usage of the wanted bits and no other."""
    return x509.KeyUsage(**{usage: wanted.get(usage, False) for usage in _USAGES})
