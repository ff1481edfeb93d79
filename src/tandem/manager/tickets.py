"""Tickets: what lets a Manager that was started again know a pair, without a write for any start.

A vTPM gets the ticket of its launch with its pair record, over its key channel, and shows both when
it rejoins (ADR 0015).  The key of the tickets is the host record's, which no vTPM ever sees.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from tandem.values import Secret

TICKET_LABEL: Final = b"TANDEM-PAIR-TICKET-1"
EPHEMERAL_LABEL: Final = b"TANDEM-EPHEMERAL-VTPM-1"


def ticket(key: Secret, record: bytes, *, ephemeral: bool) -> bytes:
    """Give the ticket of the launch with this pair record (32 bytes)."""
    own = hmac.digest(key.reveal(), TICKET_LABEL, hashlib.sha256)
    return hmac.digest(own, bytes((ephemeral,)) + record, hashlib.sha256)


def ephemeral_key(key: Secret, pair_id: bytes) -> bytes:
    """Give the key of an ephemeral vTPM (AES-256), which no record keeps: one for each launch."""
    own = hmac.digest(key.reveal(), EPHEMERAL_LABEL, hashlib.sha256)
    return hmac.digest(own, pair_id, hashlib.sha256)
