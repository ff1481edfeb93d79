"""The recovery key: 256 bits on paper, which open the master key when no approval does.

It is shown once, in groups and with a checksum, and kept nowhere; the identity holds the master key
wrapped under it (AES-256-GCM, bound to the generation).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tandem.errors import Refused, UsageError
from tandem.manager.identity import Identity, derive
from tandem.values import Secret

KEY_SIZE: Final = 32
CHECKSUM_SIZE: Final = 3  # with the key 280 bits: whole base32 digits
GROUP: Final = 7  # digits between hyphens
NONCE_SIZE: Final = 12
WRAP_TAG: Final = b"TANDEM-RECOVERY-1\0"
_MISREAD: Final = str.maketrans(
    {"0": "O", "1": "I", "8": "B", "-": "", " ": "", "\n": "", "\r": ""}
)


def new_recovery_key() -> Secret:
    """Make a recovery key."""
    return Secret(os.urandom(KEY_SIZE))


def shown(key: Secret) -> str:
    """Write the key for a person: base32 (RFC 4648) of key and checksum, in groups."""
    text = base64.b32encode(key.reveal() + _checksum(key.reveal())).decode("ascii")
    return "-".join(text[at : at + GROUP] for at in range(0, len(text), GROUP))


def read(text: str) -> Secret:
    """Read a key as a person typed it; what can be misread is taken as it was meant."""
    try:
        data = base64.b32decode(text.upper().translate(_MISREAD))
    except (binascii.Error, ValueError):
        data = b""
    key, checksum = data[:KEY_SIZE], data[KEY_SIZE:]
    if len(key) != KEY_SIZE or checksum != _checksum(key):
        raise UsageError(
            "TDM-RECOVERY-KEY-MISTYPED",
            "this is no recovery key: its checksum does not hold",
            hint="type all of its groups as `tandem host init` showed them; case, spaces and "
            "hyphens do not matter",
        )
    return Secret(key)


def wrap(master: Secret, key: Secret, generation: int) -> bytes:
    """Encrypt a master key under a recovery key."""
    nonce = os.urandom(NONCE_SIZE)
    return nonce + _cipher(key).encrypt(nonce, master.reveal(), _bound_to(generation))


def unwrap(identity: Identity, key: Secret) -> Secret:
    """Give the master key of an identity."""
    sealed = identity.recovery
    try:
        master = _cipher(key).decrypt(
            sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], _bound_to(identity.generation)
        )
    except (InvalidTag, ValueError):  # ValueError: a nonce too short
        raise Refused(
            "TDM-RECOVERY-KEY-WRONG",
            f"the recovery key does not open generation {identity.generation} of this host",
            hint="each init, rotate, recover and restore shows a new one: use the last",
        ) from None
    return Secret(master)


def _cipher(key: Secret) -> AESGCM:
    return AESGCM(derive(key, "recovery wrap").reveal())


def _bound_to(generation: int) -> bytes:
    return WRAP_TAG + generation.to_bytes(8)


def _checksum(key: bytes) -> bytes:
    return hashlib.sha256(WRAP_TAG + key).digest()[:CHECKSUM_SIZE]
