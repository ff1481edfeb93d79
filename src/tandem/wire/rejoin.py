"""How a vTPM proves to a Manager that was started again that it is the one it says it is.

HMAC-SHA256 under a key of its own (NIST SP 800-108, a label for each use), over the nonce that the
Manager made for this one key channel, and over the state that the vTPM claims with it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from tandem.values import Secret

NONCE_SIZE: Final = 32
LABEL: Final = b"TANDEM-VTPM-REJOIN-1"


def rejoin_proof(
    key: Secret, *, nonce: bytes, pair_id: bytes, state_version: int, state_digest: bytes
) -> bytes:
    """Give the proof; `key` is the vTPM's (32 bytes), the state is the newest acknowledged one."""
    own = hmac.digest(key.reveal(), LABEL, hashlib.sha256)
    parts = (nonce, pair_id, state_version.to_bytes(8), state_digest)
    framed = b"".join(len(part).to_bytes(2) + part for part in parts)
    return hmac.digest(own, framed, hashlib.sha256)
