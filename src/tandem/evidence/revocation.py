"""Revocation lists (CRL, RFC 5280, section 5): which certificates of a group no longer count.

A list speaks for one authority.  Everything that a check may ask is read at once, so that a
malformed list is refused here and nowhere later.  Nothing is verified but by `signed_by`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tandem.errors import UntrustedInput
from tandem.evidence.certificates import Certificate

MAX_LIST: Final = 4 * 1024 * 1024
PEM_HEAD: Final = b"-----BEGIN X509 CRL-----"
_READ_ERRORS: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion),
    *(x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


@dataclass(frozen=True, kw_only=True)
class RevocationList:
    """One list; `revoked` has the time of each revocation by serial number."""

    parsed: x509.CertificateRevocationList
    issuer: str
    number: int  # rises with each list of an authority
    issued_at: datetime
    next_due: datetime
    revoked: Mapping[int, datetime]

    @property
    def der(self) -> bytes:
        """The list's bytes."""
        return self.parsed.public_bytes(Encoding.DER)


def parse_revocation_list(data: bytes) -> RevocationList:
    """Read one list, DER or PEM."""
    if len(data) > MAX_LIST:
        _refuse(f"{len(data)} bytes, more than {MAX_LIST}")
    load = x509.load_pem_x509_crl if data.startswith(PEM_HEAD) else x509.load_der_x509_crl
    try:
        return _read(load(data))
    except _READ_ERRORS as error:
        _refuse(f"malformed ({type(error).__name__})")


def signed_by(revocations: RevocationList, authority: Certificate) -> bool:
    """Whether `authority` is a CA, is named as the list's issuer, and signed it."""
    key = authority.key
    if not authority.is_ca or revocations.parsed.issuer != authority.parsed.subject:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return False
    try:
        return revocations.parsed.is_signature_valid(key)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _read(parsed: x509.CertificateRevocationList) -> RevocationList:
    number, critical = None, []
    for extension in parsed.extensions:
        if isinstance(extension.value, x509.CRLNumber):
            number = extension.value.crl_number
        elif extension.critical:
            critical.append(extension.oid.dotted_string)
    if critical:  # as of a list that speaks for others, or for some reasons alone
        _refuse(f"critical extension {critical[0]}, which changes what the list says")
    if number is None or parsed.next_update_utc is None:
        _refuse("no CRL number, or no time at which the next list is due")
    return RevocationList(
        parsed=parsed,
        issuer=parsed.issuer.rfc4514_string(),
        number=number,
        issued_at=parsed.last_update_utc,
        next_due=parsed.next_update_utc,
        revoked={each.serial_number: each.revocation_date_utc for each in parsed},
    )


def _refuse(problem: str) -> NoReturn:
    raise UntrustedInput(
        "TDM-REVOCATIONS-BAD",
        f"revocation list: {problem}",
        hint="fetch the group's list again with `tandem group crl`",
        offset=0,
    )
