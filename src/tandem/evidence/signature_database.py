"""Secure Boot's databases: which entry of db vouches for an image, as OVMF decides it.

EFI_SIGNATURE_LIST: UEFI 2.10, section 32.4.1.  The decision is that of edk2's
`SecurityPkg/Library/DxeImageVerificationLib`: each signature of the image in turn, each certificate
of db in turn; the first that the signer's chain leads to is the authority, and goes into PCR 7.
Only whose signature it is matters here: a signature that does not verify stops the boot itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tandem.errors import Refused
from tandem.evidence.cursor import Cursor
from tandem.evidence.guid import guid
from tandem.evidence.pe_image import PeImage
from tandem.evidence.variable_store import HINT

X509: Final = guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256: Final = guid("c1c41626-504c-4092-aca9-41f936934328")
OWNER_SIZE: Final = 16
LIST_HEADER: Final = 28
MAX_CHAIN: Final = 8
MAX_CERTIFICATES: Final = 32  # of one signature
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One entry of a database; `data` is EFI_SIGNATURE_DATA, owner first."""

    kind: bytes
    data: bytes

    @property
    def value(self) -> bytes:
        """The certificate or digest."""
        return self.data[OWNER_SIZE:]


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Read a signature database, or refuse it."""
    cursor = Cursor(data, "signature database", "little", HINT)
    found: list[Signature] = []
    while cursor.left:
        kind = cursor.take(16, "signature type")
        total, header, size = cursor.u32("list size"), cursor.u32("header size"), cursor.u32("size")
        cursor.take(header, "signature header")
        body = total - LIST_HEADER - header
        if size <= OWNER_SIZE or body < 0 or body % size:
            raise cursor.broken(f"a list of {total} bytes with signatures of {size}")
        entries = cursor.take(body, "signatures")
        found += [Signature(kind=kind, data=entries[at : at + size])
                  for at in range(0, body, size)]  # fmt: skip
    return tuple(found)


def authority(image: PeImage, db: bytes, dbx: bytes, what: str) -> bytes | None:
    """Give the entry of db that OVMF measures for an image; None where a digest in db allows it.

    An image that Secure Boot does not allow is Refused: the machine would not boot it.
    """
    allowed, forbidden = parse_signatures(db), parse_signatures(dbx)
    digest = image.authenticode("sha256")
    if any(each.kind == SHA256 and each.value == digest for each in forbidden):
        raise _refused(what, "its digest is in dbx")
    revoked = {each.value for each in forbidden if each.kind == X509}
    for signature in image.signatures:
        chains = [_chain(signature)]
        if any(each.public_bytes(Encoding.DER) in revoked for chain in chains for each in chain):
            raise _refused(what, "a certificate of its signature is in dbx")
        for entry in allowed:
            if entry.kind == X509 and any(_leads_to(chain, entry.value) for chain in chains):
                return entry.data
    if any(each.kind == SHA256 and each.value == digest for each in allowed):
        return None
    raise _refused(what, "no signature of it is by a key in db")


def _chain(signature: bytes) -> tuple[x509.Certificate, ...]:
    """Give the signer's certificate and its issuers, as far as the signature carries them."""
    try:
        carried = pkcs7.load_der_pkcs7_certificates(signature)[:MAX_CERTIFICATES]
    except UNREADABLE:
        return ()
    signers = [each for each in carried if not any(_issued(each, other) for other in carried)]
    if not signers:
        return ()
    chain = [signers[0]]
    while len(chain) < MAX_CHAIN:
        above = [each for each in carried if each not in chain and _issued(each, chain[-1])]
        if not above:
            break
        chain.append(above[0])
    return tuple(chain)


def _issued(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    if issuer == subject:
        return False
    try:
        subject.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _leads_to(chain: tuple[x509.Certificate, ...], trusted: bytes) -> bool:
    """Whether a chain holds the trusted certificate or ends below it."""
    try:
        anchor = x509.load_der_x509_certificate(trusted)
    except UNREADABLE:
        return False
    return anchor in chain or any(_issued(anchor, each) for each in chain)


def certificate_names(data: bytes) -> Iterator[str]:
    """Give the subjects of a database's certificates, for people."""
    for each in parse_signatures(data):
        if each.kind == X509:
            try:
                yield x509.load_der_x509_certificate(each.value).subject.rfc4514_string()
            except UNREADABLE:
                yield "a certificate that cannot be read"


def _refused(what: str, why: str) -> Refused:
    return Refused(
        "TDM-UEFI-NOT-ALLOWED",
        f"Secure Boot will not let {what} run: {why}",
        hint="sign it with a key whose certificate is in the variable store's db",
    )
