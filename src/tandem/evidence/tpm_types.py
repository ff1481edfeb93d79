"""TPM structures of keys, signatures and PCR selections (TPM 2.0 Part 2), as a TPM marshals them.

RSA and NIST P-256/P-384 keys; anything else is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tandem.evidence.cursor import Cursor

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
MAX_PUBLIC: Final = 1024
MAX_SIGNATURE: Final = 1024
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
DEFAULT_EXPONENT: Final = 65537  # where the structure says 0 (Part 2, 12.2.3.5)
MAX_SELECTIONS: Final = 8


class Algorithm(IntEnum):
    """TPM_ALG_ID (Part 2, 6.3), those that evidence may name."""

    RSA = 0x0001
    SHA1 = 0x0004
    AES = 0x0006
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    RSASSA = 0x0014
    RSAES = 0x0015
    RSAPSS = 0x0016
    OAEP = 0x0017
    ECDSA = 0x0018
    ECDH = 0x0019
    ECC = 0x0023
    CFB = 0x0043


class Attribute(IntFlag):
    """TPMA_OBJECT (Part 2, 8.3), the bits that say what a key is for."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


_OWN_KEY: Final = Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
_AK: Final = _OWN_KEY | Attribute.RESTRICTED | Attribute.SIGN
_EK: Final = _OWN_KEY | Attribute.RESTRICTED | Attribute.DECRYPT
_USE: Final = Attribute.RESTRICTED | Attribute.SIGN | Attribute.DECRYPT

HASHES: Final[Mapping[int, str]] = {
    Algorithm.SHA1: "sha1",
    Algorithm.SHA256: "sha256",
    Algorithm.SHA384: "sha384",
    Algorithm.SHA512: "sha512",
}
CURVES: Final[Mapping[int, type[ec.EllipticCurve]]] = {3: ec.SECP256R1, 4: ec.SECP384R1}


@dataclass(frozen=True, kw_only=True)
class Public:
    """TPMT_PUBLIC of an asymmetric key (Part 2, 12.2.4)."""

    encoded: bytes
    type: Algorithm
    name_algorithm: str  # hashlib's name
    attributes: int  # TPMA_OBJECT, the bits unknown here too
    policy: bytes
    symmetric_bits: int  # of a storage key's AES in CFB mode; 0 for a signing key
    scheme: int  # TPM_ALG_ID; NULL leaves the choice to each signature
    scheme_hash: int
    key: PublicKey

    @property
    def name(self) -> bytes:
        """The Name: algorithm and digest of the structure (Part 1, section 16)."""
        algorithm = next(each for each in HASHES if HASHES[each] == self.name_algorithm)
        return algorithm.to_bytes(2) + hashlib.new(self.name_algorithm, self.encoded).digest()

    @property
    def is_ak(self) -> bool:
        """Whether the key signs only what its own TPM made, and never left it."""
        return self.attributes & (_AK | _USE) == _AK

    @property
    def is_ek(self) -> bool:
        """Whether the key is a restricted decryption key that never left its TPM."""
        return self.attributes & (_EK | _USE) == _EK


@dataclass(frozen=True, kw_only=True)
class Signature:
    """TPMT_SIGNATURE (Part 2, 11.3.4); `value` is RSA's, or r and s for ECDSA."""

    scheme: Algorithm
    hash: str  # hashlib's name
    value: bytes | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PcrSelection:
    """TPMS_PCR_SELECTION (Part 2, 10.6.1); `hash` is a TPM_ALG_ID."""

    hash: int
    registers: tuple[int, ...]


def parse_public(data: bytes) -> Public:
    """Read a TPMT_PUBLIC; the key's numbers are checked to be one."""
    cursor = Cursor(data, "TPMT_PUBLIC")
    if cursor.left > MAX_PUBLIC:
        raise cursor.broken(f"{cursor.left} bytes, more than {MAX_PUBLIC}")
    kind = cursor.u16("type")
    name_algorithm = HASHES.get(cursor.u16("name algorithm"))
    if kind not in (Algorithm.RSA, Algorithm.ECC) or name_algorithm is None:
        raise cursor.broken(f"a key of type {kind:#x} or an unknown name algorithm")
    attributes = cursor.u32("attributes")
    policy = cursor.sized("authorisation policy")
    symmetric_bits = _symmetric(cursor)
    scheme, scheme_hash = _scheme(cursor)
    key = _rsa_key(cursor) if kind == Algorithm.RSA else _ecc_key(cursor)
    cursor.finish()
    return Public(
        encoded=data,
        type=Algorithm(kind),
        name_algorithm=name_algorithm,
        attributes=attributes,
        policy=policy,
        symmetric_bits=symmetric_bits,
        scheme=scheme,
        scheme_hash=scheme_hash,
        key=key,
    )


def parse_signature(data: bytes) -> Signature:
    """Read a TPMT_SIGNATURE made by RSASSA, RSAPSS or ECDSA."""
    cursor = Cursor(data, "TPMT_SIGNATURE")
    if cursor.left > MAX_SIGNATURE:
        raise cursor.broken(f"{cursor.left} bytes, more than {MAX_SIGNATURE}")
    scheme, digest = cursor.u16("scheme"), HASHES.get(cursor.u16("hash"))
    if digest is None or scheme not in (Algorithm.RSASSA, Algorithm.RSAPSS, Algorithm.ECDSA):
        raise cursor.broken(f"signature scheme {scheme:#x} or its hash is unknown")
    value: bytes | tuple[int, int]
    if scheme == Algorithm.ECDSA:
        value = (int.from_bytes(cursor.sized("r")), int.from_bytes(cursor.sized("s")))
    else:
        value = cursor.sized("signature")
    cursor.finish()
    return Signature(scheme=Algorithm(scheme), hash=digest, value=value)


def read_pcr_selections(cursor: Cursor) -> tuple[PcrSelection, ...]:
    """Read a TPML_PCR_SELECTION (Part 2, 10.9.7) at the cursor."""
    count = cursor.u32("number of PCR selections")
    if count > MAX_SELECTIONS:
        raise cursor.broken(f"{count} PCR selections, more than {MAX_SELECTIONS}")
    return tuple(_selection(cursor) for _ in range(count))


def _selection(cursor: Cursor) -> PcrSelection:
    algorithm = cursor.u16("PCR bank")
    bitmap = int.from_bytes(cursor.take(cursor.u8("select size"), "PCR bitmap"), "little")
    registers = tuple(index for index in range(bitmap.bit_length()) if bitmap >> index & 1)
    return PcrSelection(hash=algorithm, registers=registers)


def _symmetric(cursor: Cursor) -> int:
    """Read a TPMT_SYM_DEF_OBJECT (Part 2, 11.1.7): AES in CFB mode, or none."""
    algorithm = cursor.u16("symmetric algorithm")
    if algorithm == Algorithm.NULL:
        return 0
    bits, mode = cursor.u16("symmetric key bits"), cursor.u16("symmetric mode")
    if algorithm != Algorithm.AES or mode != Algorithm.CFB or bits not in (128, 192, 256):
        raise cursor.broken(f"symmetric algorithm {algorithm:#x} is not AES in CFB mode")
    return bits


def _scheme(cursor: Cursor) -> tuple[int, int]:
    """Read a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME (Part 2, 11.2.4.2 and 11.2.5.6)."""
    scheme = cursor.u16("scheme")
    if scheme in (Algorithm.NULL, Algorithm.RSAES):
        return scheme, Algorithm.NULL
    known = (Algorithm.RSASSA, Algorithm.RSAPSS, Algorithm.OAEP, Algorithm.ECDSA, Algorithm.ECDH)
    if scheme not in known:
        raise cursor.broken(f"key scheme {scheme:#x} is unknown")
    return scheme, cursor.u16("scheme hash")


def _rsa_key(cursor: Cursor) -> rsa.RSAPublicKey:
    """Read what follows in TPMS_RSA_PARMS (Part 2, 12.2.3.5), and TPM2B_PUBLIC_KEY_RSA."""
    bits, exponent = cursor.u16("key bits"), cursor.u32("exponent") or DEFAULT_EXPONENT
    modulus = int.from_bytes(cursor.sized("modulus"))
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS or modulus.bit_length() != bits:
        raise cursor.broken(f"an RSA key of {modulus.bit_length()} bits, stated as {bits}")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise cursor.broken("the numbers are no RSA key") from error


def _ecc_key(cursor: Cursor) -> ec.EllipticCurvePublicKey:
    """Read what follows in TPMS_ECC_PARMS (Part 2, 12.2.3.6), and TPMS_ECC_POINT."""
    number, kdf = cursor.u16("curve"), cursor.u16("key derivation")
    if number not in CURVES or kdf != Algorithm.NULL:
        raise cursor.broken(f"curve {number:#x} with key derivation {kdf:#x} is unknown")
    x, y = (int.from_bytes(cursor.sized(axis)) for axis in ("x", "y"))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, CURVES[number]()).public_key()
    except ValueError as error:
        raise cursor.broken("the point is not on the curve") from error
