"""What a certificate allows and which TPM it is of: the extensions that a path is judged by.

RFC 5280, section 4.2, and the TCG EK Credential Profile for TPM 2.0, version 2.5, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID

from tandem.evidence import oids
from tandem.evidence.certificates import Certificate

Value = TypeVar("Value")
MAX_MODEL: Final = 64  # characters shown of each attribute
_UNDERSTOOD: Final = {  # a critical extension of another kind forbids to use the certificate
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.CERTIFICATE_POLICIES,  # any policy will do: RFC 5280, 6.1.1 (c)
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
}
_USES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign"),
)


@dataclass(frozen=True, kw_only=True)
class TpmModel:
    """The TPM that an EK certificate names: vendor id, model and version, as the vendor wrote."""

    manufacturer: str  # "id:49465800"; empty where it is not said
    model: str
    version: str

    def __str__(self) -> str:
        return f"{vendor_of(self.manufacturer)} {self.model!a} {self.version}"


@dataclass(frozen=True, kw_only=True)
class Extensions:
    """The extensions of one certificate, read whole; None is an extension that is not there."""

    path_length: int | None  # of a CA: how many CAs may stand below it; None: any number
    key_usage: frozenset[str] | None  # the names of KeyUsage's bits that are set
    unknown_critical: tuple[str, ...]  # dotted
    signature_hash: str  # hashlib's name, empty where it is unknown
    authority_key_id: bytes | None
    subject_key_id: bytes | None
    key_not_before: datetime | None  # from PrivateKeyUsagePeriod: when its key may sign
    key_not_after: datetime | None
    tpm: TpmModel | None


def read_extensions(certificate: Certificate) -> Extensions:
    """Read what `certificates.parse_certificate` found to be well-formed."""
    parsed = certificate.parsed
    constraints = _value(parsed, x509.BasicConstraints)
    period = _value(parsed, x509.PrivateKeyUsagePeriod)
    authority = _value(parsed, x509.AuthorityKeyIdentifier)
    subject = _value(parsed, x509.SubjectKeyIdentifier)
    return Extensions(
        path_length=None if constraints is None else constraints.path_length,
        key_usage=_key_usage(parsed),
        unknown_critical=tuple(
            each.oid.dotted_string
            for each in parsed.extensions
            if each.critical and each.oid not in _UNDERSTOOD
        ),
        signature_hash=_signature_hash(parsed),
        authority_key_id=None if authority is None else authority.key_identifier,
        subject_key_id=None if subject is None else subject.digest,
        key_not_before=None if period is None else _aware(period.not_before),
        key_not_after=None if period is None else _aware(period.not_after),
        tpm=_tpm(parsed),
    )


def vendor_of(manufacturer: str) -> str:
    """Give a TPM vendor's name from its id (TCG TPM Vendor ID Registry): ASCII in hexadecimal."""
    digits = manufacturer.removeprefix("id:")
    try:
        name = bytes.fromhex(digits).rstrip(b"\0 ").decode("ascii")
    except (ValueError, UnicodeDecodeError):
        name = ""
    return name if name.isalnum() else ascii(manufacturer)


def _value(parsed: x509.Certificate, kind: type[Value]) -> Value | None:
    return next((each.value for each in parsed.extensions if isinstance(each.value, kind)), None)


def _key_usage(parsed: x509.Certificate) -> frozenset[str] | None:
    usage = _value(parsed, x509.KeyUsage)
    return None if usage is None else frozenset(each for each in _USES if getattr(usage, each))


def _signature_hash(parsed: x509.Certificate) -> str:
    try:
        algorithm = parsed.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return ""
    return "" if algorithm is None else algorithm.name


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _tpm(parsed: x509.Certificate) -> TpmModel | None:
    """Read the TPM's attributes: a directory name in the alternative name, or in the subject."""
    names = [parsed.subject]
    alternative = _value(parsed, x509.SubjectAlternativeName)
    if alternative is not None:
        names += alternative.get_values_for_type(x509.DirectoryName)
    said = {each.oid.dotted_string: str(each.value)[:MAX_MODEL] for name in names for each in name}
    wanted = (oids.TPM_MANUFACTURER, oids.TPM_MODEL, oids.TPM_VERSION)
    if not any(oid in said for oid in wanted):
        return None
    manufacturer, model, version = (said.get(oid, "") for oid in wanted)
    return TpmModel(
        manufacturer=manufacturer,
        model=model,
        version=version if version.isascii() and version.isprintable() else ascii(version),
    )
