"""Whether a store is the newest one: its chain value against what the pTPM holds.  Pure.

The pTPM keeps V(n) = SHA-256(V(n-1) ‖ root(n)) in an NV index that can only be extended.  The store
keeps V(n-1); root(n) is computed from what the store holds.  A commit is durable in the store
first, so a crash between the two leaves the pTPM exactly one step behind.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from enum import StrEnum, auto
from typing import Final

CHAIN_START: Final = bytes(32)
ROOT_TAG: Final = b"TANDEM-STORE-1\0\0"


class Standing(StrEnum):
    """What a store is, measured at the pTPM."""

    NEWEST = auto()
    ONE_STEP_AHEAD = auto()  # the commit was durable, the pTPM was not told: extend it now
    FOREIGN = auto()  # older, forked, or of another host


def store_root(records: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Give the digest over all records: (id, version, SHA-256 of the ciphertext), sorted by id."""
    state = hashlib.sha256(ROOT_TAG)
    for name, version, digest in sorted(records):
        encoded = name.encode()
        state.update(len(encoded).to_bytes(4) + encoded + version.to_bytes(8) + digest)
    return state.digest()


def extended(value: bytes, root: bytes) -> bytes:
    """Give what the pTPM's index holds after an extend (TPM 2.0 Part 3, TPM2_NV_Extend)."""
    return hashlib.sha256(value + root).digest()


def standing(*, previous: bytes, root: bytes, anchored: bytes) -> Standing:
    """Judge a store that holds `previous` and `root` against the pTPM's `anchored` value."""
    if hmac.compare_digest(extended(previous, root), anchored):
        return Standing.NEWEST
    if hmac.compare_digest(previous, anchored):
        return Standing.ONE_STEP_AHEAD
    return Standing.FOREIGN
