"""X.509 certificates of endorsement and attestation keys, and what TCG and Tandem put into them.

Everything that a check may ask is read at once, so that a malformed certificate is refused here
and nowhere later.  Nothing is verified here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.errors import UntrustedInput
from tandem.evidence import oids
from tandem.evidence.der_sets import signed_part, with_sorted_sets
from tandem.evidence.tpm_types import PublicKey
from tandem.values import SHA256_SIZE

Value = TypeVar("Value")
MAX_CERTIFICATE: Final = 16 * 1024
MAX_COUNT: Final = (1 << 32) - 1  # TPMS_CLOCK_INFO (TPM 2.0 Part 2, 10.11.1)
PEM_BLOCK: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*?)-----END CERTIFICATE-----"
)
_SEQUENCE, _INTEGER = 0x30, 0x02  # DER tags
_OCTET_STRING: Final = bytes((0x04, SHA256_SIZE))  # DER head of a SHA-256 digest
_READ_ERRORS: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
_EXTENSION_ERRORS: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One certificate; a key of an algorithm that Tandem does not use reads as None."""

    parsed: x509.Certificate
    der: bytes  # as its issuer wrote it
    serial: int
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    key: PublicKey | None
    is_ca: bool
    usages: tuple[str, ...]  # extended key usages, dotted
    pair_record_digest: bytes | None
    expected_counts: tuple[int, int] | None  # reset and restart count


def parse_certificate(der: bytes) -> Certificate:
    """Read one DER certificate; sets that are out of order are forgiven, as vendors write them."""
    if len(der) > MAX_CERTIFICATE:
        _refuse(f"{len(der)} bytes, more than {MAX_CERTIFICATE}")
    try:
        return _read(der, der)
    except (*_READ_ERRORS, *_EXTENSION_ERRORS):
        return _parse_with_sorted_sets(der)


def parse_pem_certificate(pem: bytes) -> Certificate:
    """Read one PEM certificate."""
    if len(pem) > 2 * MAX_CERTIFICATE:
        _refuse(f"{len(pem)} bytes, more than {2 * MAX_CERTIFICATE}")
    block = PEM_BLOCK.search(pem)
    if block is None:
        _refuse("no certificate in PEM")
    try:
        return parse_certificate(base64.b64decode(b"".join(block[1].split()), validate=True))
    except binascii.Error:
        _refuse("malformed Base64")


def same_key(left: PublicKey, right: PublicKey) -> bool:
    """Whether two public keys are one."""
    return _spki(left) == _spki(right)


def issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer` is a CA, is named as the issuer, and signed the certificate."""
    parsed, key = certificate.parsed, issuer.key
    if not issuer.is_ca or key is None or parsed.issuer != issuer.parsed.subject:
        return False
    try:
        _verify(parsed, signed_part(certificate.der), key)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def serial_bytes(serial: int) -> bytes:
    """Give a serial number as big-endian bytes, without leading zeros."""
    return serial.to_bytes((serial.bit_length() + 7) // 8)


def encode_counts(reset: int, restart: int) -> bytes:
    """Write the expected counts as the value of their extension."""
    content = b"".join(_integer(count) for count in (reset, restart))
    return bytes((_SEQUENCE, len(content))) + content


def _verify(parsed: x509.Certificate, signed: bytes, key: PublicKey) -> None:
    """Raise InvalidSignature, or TypeError where it is one of another kind of key."""
    way, algorithm = parsed.signature_algorithm_parameters, parsed.signature_hash_algorithm
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(way, ec.ECDSA):
        key.verify(parsed.signature, signed, way)
    elif isinstance(key, rsa.RSAPublicKey) and isinstance(way, padding.PKCS1v15 | padding.PSS):
        if algorithm is None:
            raise TypeError("an RSA signature without a hash")
        key.verify(parsed.signature, signed, way, algorithm)
    else:
        raise TypeError("the signature is not one of this kind of key")


def _parse_with_sorted_sets(der: bytes) -> Certificate:
    try:
        return _read(with_sorted_sets(der), der)
    except (*_READ_ERRORS, *_EXTENSION_ERRORS) as error:
        _refuse(f"malformed ({type(error).__name__})")


def _read(readable: bytes, der: bytes) -> Certificate:
    parsed = x509.load_der_x509_certificate(readable)
    if not der.endswith(b"\0" + parsed.signature):  # a BIT STRING that leaves no bits unused
        _refuse("its signature is not of whole bytes, or something follows it")
    extensions = {each.oid.dotted_string: each for each in parsed.extensions}
    constraints = _extension(parsed, x509.BasicConstraints)
    usages = _extension(parsed, x509.ExtendedKeyUsage)
    record = extensions.get(oids.PAIR_RECORD_DIGEST)
    counts = extensions.get(oids.EXPECTED_COUNTS)
    return Certificate(
        parsed=parsed,
        der=der,
        serial=parsed.serial_number,
        subject=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer.rfc4514_string(),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        key=_key(parsed.public_key),
        is_ca=constraints is not None and constraints.ca,
        usages=tuple(each.dotted_string for each in usages or ()),
        pair_record_digest=None if record is None else _record_digest(record.value),
        expected_counts=None if counts is None else _counts(counts.value),
    )


def _extension(parsed: x509.Certificate, kind: type[Value]) -> Value | None:
    for extension in parsed.extensions:
        if isinstance(extension.value, kind):
            return extension.value
    return None


def _key(read: Callable[[], object]) -> PublicKey | None:
    try:
        key = read()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None


def _record_digest(value: x509.ExtensionType) -> bytes:
    raw = value.value if isinstance(value, x509.UnrecognizedExtension) else b""
    if len(raw) != len(_OCTET_STRING) + SHA256_SIZE or not raw.startswith(_OCTET_STRING):
        _refuse("the pair record extension is not an OCTET STRING of 32 bytes")
    return raw[len(_OCTET_STRING) :]


def _integer(value: int) -> bytes:
    """Write a DER INTEGER of at most 64 unsigned bits."""
    content = value.to_bytes(value.bit_length() // 8 + 1)
    return bytes((_INTEGER, len(content))) + content


def _counts(value: x509.ExtensionType) -> tuple[int, int]:
    """Read the expected counts: only what `encode_counts` writes."""
    raw = value.value if isinstance(value, x509.UnrecognizedExtension) else b""
    first = raw[2:4]
    at = 4 + (first[1] if len(first) == len(b"TL") else 0)
    reset, restart = int.from_bytes(raw[4:at]), int.from_bytes(raw[at + 2 :])
    if max(reset, restart) > MAX_COUNT or raw != encode_counts(reset, restart):
        _refuse("the extension of the expected counts is not two INTEGERs in DER")
    return reset, restart


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _refuse(problem: str) -> NoReturn:
    raise UntrustedInput(
        "TDM-CERTIFICATE-BAD",
        f"certificate: {problem}",
        hint="ask the host for its certificates again",
        offset=0,
    )
