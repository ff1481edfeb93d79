"""The attestation key of every vTPM: its fixed public area, and where in its TPM it stands.

A certificate shows only the key's numbers.  Because all else of the public area is fixed here, the
verifier rebuilds it, and its Name proves that the key is restricted: it signs only what its TPM
made.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from tandem.evidence.tpm_types import Algorithm, Attribute

TPM_RH_ENDORSEMENT: Final = 0x4000000B  # TPM 2.0 Part 2, 7.4
TPM_RH_PLATFORM: Final = 0x4000000C
ATTRIBUTES: Final = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.USER_WITH_AUTH
    | Attribute.NO_DA
    | Attribute.RESTRICTED
    | Attribute.SIGN
)
_P256: Final = 0x0003
_WIDTH: Final = 32  # bytes of a coordinate, zeros in front kept
_TEMPLATE: Final = struct.pack(
    ">HHIHHHHHH",
    *(Algorithm.ECC, Algorithm.SHA256, ATTRIBUTES),
    *(0, Algorithm.NULL),  # no authorisation policy, no symmetric algorithm
    *(Algorithm.ECDSA, Algorithm.SHA256, _P256, Algorithm.NULL),
)


def vtpm_ak_public(key: ec.EllipticCurvePublicKey) -> bytes:
    """Give the TPMT_PUBLIC (Part 2, 12.2.4) of a vTPM's AK with these numbers."""
    numbers = key.public_numbers()
    x, y = (axis.to_bytes(_WIDTH) for axis in (numbers.x, numbers.y))
    return _TEMPLATE + b"".join(struct.pack(">H", _WIDTH) + axis for axis in (x, y))


def vtpm_ak_template() -> bytes:
    """Give the TPMT_PUBLIC that makes the AK: the same with an empty point."""
    return _TEMPLATE + struct.pack(">HH", 0, 0)


def qualified_name(hierarchy: int, name: bytes) -> bytes:
    """Give the Qualified Name of a primary SHA-256 key (Part 1, section 16)."""
    digest = hashlib.sha256(hierarchy.to_bytes(4) + name).digest()
    return Algorithm.SHA256.to_bytes(2) + digest
