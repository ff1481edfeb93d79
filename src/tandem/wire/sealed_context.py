"""Saved contexts that only who saved them can load: a MAC inside TPMS_CONTEXT's blob.

The TPM itself lets anybody load any context that it made.  Broker and gate each add a MAC, under a
key of their own that lives as long as their process, over the context, its owner and a few facts
about it; so nobody has to remember what was saved.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from tandem.values import Secret
from tandem.wire.tpm_requests import BadRequest, TpmBytes

MAC_SIZE: Final = hashlib.sha256().digest_size
CONTEXT: Final = struct.Struct(">QIIH")  # sequence, handle, hierarchy, size of the blob
FACTS: Final = struct.Struct(">I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """TPMS_CONTEXT (Part 2, 14.5)."""

    sequence: int
    handle: int
    hierarchy: int
    blob: bytes

    def encode(self) -> bytes:
        """Write it."""
        return CONTEXT.pack(self.sequence, self.handle, self.hierarchy, len(self.blob)) + self.blob


def parse_context(data: bytes) -> Context:
    """Read a TPMS_CONTEXT; `BadRequest` where it is none."""
    reading = TpmBytes(data)
    sequence, handle, hierarchy = reading.integer(8), reading.integer(4), reading.integer(4)
    blob = reading.sized()
    if reading.left:
        raise BadRequest(_SIZE, "has bytes after a context", reading.at)
    return Context(sequence=sequence, handle=handle, hierarchy=hierarchy, blob=blob)


class ContextSeal:
    """Marks contexts and knows its own again."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def seal(self, context: Context, *, owner: int, facts: int) -> Context:
        """Give the context with its owner's mark; `facts` (32 bits) come back when it is opened."""
        blob = context.blob + FACTS.pack(facts)
        sealed = _with_blob(context, blob)
        return _with_blob(context, blob + self._mac(sealed, owner))

    def open(self, context: Context, *, owner: int) -> tuple[Context, int] | None:
        """Give the context as it was and its facts; None where this owner did not save it."""
        blob, mac = context.blob[:-MAC_SIZE], context.blob[-MAC_SIZE:]
        if not hmac.compare_digest(mac, self._mac(_with_blob(context, blob), owner)):
            return None
        [facts] = FACTS.unpack_from(blob, len(blob) - FACTS.size)
        return _with_blob(context, blob[: -FACTS.size]), facts

    def _mac(self, context: Context, owner: int) -> bytes:
        covered = owner.to_bytes(8) + context.encode()
        return hmac.digest(self._key.reveal(), covered, "sha256")


def _with_blob(context: Context, blob: bytes) -> Context:
    return Context(
        sequence=context.sequence,
        handle=context.handle,
        hierarchy=context.hierarchy,
        blob=blob,
    )


_SIZE: Final = 0x0D5  # TPM_RC_SIZE, parameter
