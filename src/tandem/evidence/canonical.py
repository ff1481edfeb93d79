"""Canonical CBOR (RFC 8949, section 4.2.1): one value has one encoding, so a digest names it.

Reading re-encodes and compares: two readers of the same bytes can never disagree, and a repeated
key, a longer integer or an indefinite length is refused.
"""

from __future__ import annotations

import io
from typing import Final

import cbor2

from tandem.errors import UntrustedInput

MAX_DEPTH: Final = 8
_HINT: Final = "read the evidence again from its source; do not edit it"
_MAJORS_WITH_BYTES: Final = (2, 3)  # byte and text strings
_MAJOR_ARRAY: Final = 4
_MAJOR_MAP: Final = 5
_MAJOR_TAG: Final = 6
_MAJORS_WITH_CONTENT: Final = (*_MAJORS_WITH_BYTES, _MAJOR_ARRAY, _MAJOR_MAP)


def encode(value: object) -> bytes:
    """Write `value` (maps, sequences, text, bytes, integers, booleans, null) canonically."""
    return cbor2.dumps(value, canonical=True)


def decode_map(data: bytes, what: str, limit: int) -> dict[str, object]:
    """Read one canonical map with text keys, at most `limit` bytes long."""
    if len(data) > limit:
        raise _refuse(what, f"{len(data)} bytes, more than {limit}", limit)
    _refuse_deep_or_tagged(data, what)
    try:
        value = cbor2.loads(data)
        again = encode(value)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise _refuse(what, f"not CBOR: {type(error).__name__}", 0) from None
    if again != data:
        raise _refuse(what, "not canonical CBOR", 0)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _refuse(what, "not a map with text keys", 0)
    return value


def _refuse_deep_or_tagged(data: bytes, what: str) -> None:
    """Walk the item heads: no tags, no indefinite lengths, bounded depth, before any decoding."""
    stream = io.BytesIO(data)
    pending = [1]  # items still due at each open level
    while pending:
        if pending[-1] == 0:
            pending.pop()
            continue
        pending[-1] -= 1
        major, argument = _item_head(stream, what, len(data))
        if major in _MAJORS_WITH_BYTES:
            stream.seek(argument, io.SEEK_CUR)
        elif major in (_MAJOR_ARRAY, _MAJOR_MAP):
            pending.append(argument * (2 if major == _MAJOR_MAP else 1))
        if len(pending) > MAX_DEPTH:
            raise _refuse(what, f"nested deeper than {MAX_DEPTH}", stream.tell() - 1)


def _item_head(stream: io.BytesIO, what: str, size: int) -> tuple[int, int]:
    """Read one item's major type and argument (RFC 8949, section 3)."""
    head = stream.read(1)
    if not head:
        raise _refuse(what, "ends inside an item", size)
    major, argument = head[0] >> 5, _argument(head[0] & 0x1F, stream)
    if argument is None or major == _MAJOR_TAG:
        raise _refuse(what, "a tag or an indefinite length", stream.tell() - 1)
    if major in _MAJORS_WITH_CONTENT and argument > size:
        raise _refuse(what, f"an item of {argument} parts", stream.tell() - 1)
    return major, argument


def _argument(info: int, stream: io.BytesIO) -> int | None:
    if info < 24:  # RFC 8949, section 3: the argument is the head itself
        return info
    if info > 27:
        return None
    return int.from_bytes(stream.read(1 << (info - 24)))


def _refuse(what: str, problem: str, offset: int) -> UntrustedInput:
    return UntrustedInput("TDM-CBOR-NOT-CANONICAL", f"{what}: {problem}", hint=_HINT, offset=offset)
