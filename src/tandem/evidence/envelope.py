"""Signed envelopes: DSSE (Dead Simple Signing Envelope 1.0) over Ed25519, by securesystemslib.

What is signed is the payload's type and its exact bytes, so nothing is parsed before its signature
holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.strict_json import Place, parse_json

PublicKey = Ed25519PublicKey
PrivateKey = Ed25519PrivateKey
MAX_ENVELOPE: Final = 4 * 1024 * 1024
MAX_SIGNATURES: Final = 16
_CODE: Final = "TDM-ENVELOPE-BAD"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A payload whose signatures hold, and the ids of all trusted keys that made one, sorted."""

    payload: bytes
    key_ids: tuple[str, ...]


def open_envelope(
    data: bytes, payload_type: str, keys: Sequence[PublicKey], threshold: int = 1
) -> Opened:
    """Read an envelope that at least `threshold` of `keys` signed."""
    envelope = _parse(data)
    if envelope.payload_type != payload_type:
        raise UntrustedInput(
            "TDM-ENVELOPE-TYPE",
            f"signed envelope: holds {envelope.payload_type[:64]!a}, not {payload_type}",
            hint="give the file of the kind asked for",
            offset=0,
        )
    known = {key_id(key): SSlibKey.from_crypto(key) for key in keys}
    signed = [name for name, key in known.items() if _verifies(envelope, key)]
    if not 1 <= threshold <= len(signed):
        raise Refused(
            "TDM-ENVELOPE-NOT-SIGNED",
            f"signed envelope: fewer than {threshold} of the {len(known)} trusted keys signed it",
            hint="sign it with a trusted key, or trust the key that signed it",
        )
    return Opened(payload=envelope.payload, key_ids=tuple(sorted(signed)))


def seal_envelope(payload: bytes, payload_type: str, *keys: PrivateKey) -> bytes:
    """Sign `payload` with each key and give the envelope's JSON."""
    return _signed(Envelope(payload, payload_type, {}), keys)


def add_signature(data: bytes, key: PrivateKey) -> bytes:
    """Sign what an envelope holds with one more key; an older signature by it is replaced."""
    return _signed(_parse(data), [key])


def peek(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Give an envelope's payload and the key ids that it names, none of them verified.

    To tell somebody about an envelope, never to act on it.
    """
    envelope = _parse(data)
    return envelope.payload, tuple(sorted(envelope.signatures))


def key_id(key: PublicKey) -> str:
    """Give the id under which signatures name the key: a SHA-256 of it, in hexadecimal."""
    return str(SSlibKey.from_crypto(key).keyid)


def parse_public_key(pem: bytes) -> PublicKey:
    """Read an Ed25519 public key (PEM, SubjectPublicKeyInfo)."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key("public")
    return key


def parse_private_key(pem: bytes) -> PrivateKey:
    """Read an Ed25519 private key (PEM, PKCS #8, not encrypted)."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key("private")
    return key


def _verifies(envelope: Envelope, key: SSlibKey) -> bool:
    """Whether a key signed; asked one by one, since `verify` stops when it has enough."""
    try:
        return bool(envelope.verify([key], 1))
    except VerificationError:
        return False


def _signed(envelope: Envelope, keys: Sequence[PrivateKey]) -> bytes:
    for key in keys:
        envelope.sign(CryptoSigner(key))
    return json.dumps(envelope.to_dict(), indent=1).encode("ascii") + b"\n"


def _parse(data: bytes) -> Envelope:
    root = parse_json(data, "signed envelope", _CODE, MAX_ENVELOPE)
    fields = root.fields(("payload", "payloadType", "signatures"))
    fields["payload"].typed(str)
    fields["payloadType"].text(256)
    for signature in fields["signatures"].items(MAX_SIGNATURES):
        members = signature.fields(("keyid", "sig"))
        members["keyid"].text(128)
        members["sig"].text(1024)
    return _build(root)


def _build(root: Place) -> Envelope:
    try:
        return Envelope.from_dict(root.typed(dict))
    except (FormatError, ValueError) as error:  # also what base64 raises
        root.refuse(str(error)[:80])


def _not_a_key(which: str) -> UntrustedInput:
    return UntrustedInput(
        "TDM-KEY-BAD",
        f"not an Ed25519 {which} key in PEM",
        hint="make a key with `tandem verifier keygen`",
        offset=0,
    )
