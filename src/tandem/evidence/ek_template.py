"""The RSA EK of the TCG's low-range template, rebuilt from a certificate's key.

EK Credential Profile for TPM 2.0, version 2.5, B.3.3: all of the public area but the modulus is
fixed there, so the certified key gives the Name.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from tandem.evidence.tpm_types import DEFAULT_EXPONENT, Algorithm, Attribute

BITS: Final = 2048
ATTRIBUTES: Final = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.ADMIN_WITH_POLICY
    | Attribute.RESTRICTED
    | Attribute.DECRYPT
)
POLICY: Final = bytes.fromhex(  # B.6.2: PolicySecret on the endorsement hierarchy
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)
_TEMPLATE: Final = (
    struct.pack(">HHIH", Algorithm.RSA, Algorithm.SHA256, ATTRIBUTES, len(POLICY))
    + POLICY
    + struct.pack(">HHH", Algorithm.AES, 128, Algorithm.CFB)
    + struct.pack(">HHI", Algorithm.NULL, BITS, 0)
)


def rsa_ek_name(key: rsa.RSAPublicKey) -> bytes | None:
    """Give the Name of the EK with this key; None where the template makes no such key."""
    numbers = key.public_numbers()
    if key.key_size != BITS or numbers.e != DEFAULT_EXPONENT:
        return None
    modulus = numbers.n.to_bytes(BITS // 8)
    public = _TEMPLATE + struct.pack(">H", len(modulus)) + modulus
    return Algorithm.SHA256.to_bytes(2) + hashlib.sha256(public).digest()
