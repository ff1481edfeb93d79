"""Whether a store is the newest one: its chain value against what the pTPM holds.  Pure.

The pTPM keeps V(n) = SHA-256(V(n-1) ‖ root(n)) in an NV index that can only be extended.  The store
keeps V(n-1); root(n) is computed from what the store holds (`hash_tree`).  A commit is durable in
the store first, so a crash between the two leaves the pTPM exactly one step behind.  In window mode
several commits may be durable before the pTPM is told: each of them names the value that it holds,
and so each is one step ahead, until the next extend.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum, auto
from typing import Final

CHAIN_START: Final = bytes(32)


class Standing(StrEnum):
    """What a store is, measured at the pTPM."""

    NEWEST = auto()
    ONE_STEP_AHEAD = auto()  # the commit was durable, the pTPM was not told: extend it now
    FOREIGN = auto()  # older, forked, or of another host


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
