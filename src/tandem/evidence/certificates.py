"""X.509 certificates of endorsement and attestation keys, and what TCG and Tandem put into them.

Everything that a check may ask is read at once, so that a malformed certificate is refused here
and nowhere later.  Nothing is verified here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.errors import UntrustedInput
from tandem.evidence import oids
from tandem.evidence.tpm_types import PublicKey
from tandem.values import SHA256_SIZE

Value = TypeVar("Value")
MAX_CERTIFICATE: Final = 16 * 1024
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
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    key: PublicKey | None
    is_ca: bool
    usages: tuple[str, ...]  # extended key usages, dotted
    pair_record_digest: bytes | None

    @property
    def der(self) -> bytes:
        """The certificate's bytes."""
        return self.parsed.public_bytes(Encoding.DER)


def parse_certificate(der: bytes) -> Certificate:
    """Read one DER certificate."""
    if len(der) > MAX_CERTIFICATE:
        _refuse(f"{len(der)} bytes, more than {MAX_CERTIFICATE}")
    try:
        return _read(x509.load_der_x509_certificate(der))
    except (*_READ_ERRORS, *_EXTENSION_ERRORS) as error:
        _refuse(f"malformed ({type(error).__name__})")


def parse_pem_certificate(pem: bytes) -> Certificate:
    """Read one PEM certificate."""
    if len(pem) > 2 * MAX_CERTIFICATE:
        _refuse(f"{len(pem)} bytes, more than {2 * MAX_CERTIFICATE}")
    try:
        return _read(x509.load_pem_x509_certificate(pem))
    except (*_READ_ERRORS, *_EXTENSION_ERRORS) as error:
        _refuse(f"malformed ({type(error).__name__})")


def same_key(left: PublicKey, right: PublicKey) -> bool:
    """Whether two public keys are one."""
    return _spki(left) == _spki(right)


def issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer` is a CA, is named as the issuer, and signed the certificate."""
    if not issuer.is_ca:
        return False
    try:
        certificate.parsed.verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _read(parsed: x509.Certificate) -> Certificate:
    extensions = {each.oid.dotted_string: each for each in parsed.extensions}
    constraints = _extension(parsed, x509.BasicConstraints)
    usages = _extension(parsed, x509.ExtendedKeyUsage)
    record = extensions.get(oids.PAIR_RECORD_DIGEST)
    return Certificate(
        parsed=parsed,
        subject=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer.rfc4514_string(),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        key=_key(parsed.public_key),
        is_ca=constraints is not None and constraints.ca,
        usages=tuple(each.dotted_string for each in usages or ()),
        pair_record_digest=None if record is None else _record_digest(record.value),
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


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _refuse(problem: str) -> NoReturn:
    raise UntrustedInput(
        "TDM-CERTIFICATE-BAD",
        f"certificate: {problem}",
        hint="ask the host for its certificates again",
        offset=0,
    )
