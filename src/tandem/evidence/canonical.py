"""Canonical CBOR (RFC 8949, section 4.2.1): one value has one encoding, so a digest names it.

Reading re-encodes and compares: two readers of the same bytes can never disagree, and a repeated
key, a longer integer or an indefinite length is refused.
"""

from __future__ import annotations

from typing import Final

import cbor2

from tandem.errors import UntrustedInput

MAX_DEPTH: Final = 8
_HINT: Final = "read the evidence again from its source; do not edit it"
_MAJORS_WITH_BYTES: Final = (2, 3)  # byte and text strings
_MAJOR_ARRAY: Final = 4
_MAJOR_MAP: Final = 5
_MAJOR_TAG: Final = 6
_MAJORS_WITH_ITEMS: Final = (_MAJOR_ARRAY, _MAJOR_MAP)
_MAJORS_WITH_CONTENT: Final = (*_MAJORS_WITH_BYTES, *_MAJORS_WITH_ITEMS)
_ARGUMENT_FOLLOWS: Final = 24  # in 1, 2, 4 or 8 bytes; less is the argument itself
_LONGEST_ARGUMENT: Final = 27


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
    """Walk the item heads: no tags, no indefinite lengths, bounded depth, before any decoding.

    Each message between the parts is read by this: a start reads about ten.
    """
    at, pending = 0, [1]  # where the next item begins; items still due at each open level
    while pending:
        if pending[-1] == 0:
            pending.pop()
            continue
        pending[-1] -= 1
        begins = at
        major, argument, at = _item_head(data, begins, what)
        if major in _MAJORS_WITH_BYTES:
            at += argument
        elif major in _MAJORS_WITH_ITEMS:
            pending.append(argument * (2 if major == _MAJOR_MAP else 1))
            if len(pending) > MAX_DEPTH:
                raise _refuse(what, f"nested deeper than {MAX_DEPTH}", begins)


def _item_head(data: bytes, begins: int, what: str) -> tuple[int, int, int]:
    """Read one item's major type and argument, and where its content begins (RFC 8949, 3)."""
    if begins >= len(data):
        raise _refuse(what, "ends inside an item", len(data))
    major, argument, at = data[begins] >> 5, data[begins] & 0x1F, begins + 1
    if major == _MAJOR_TAG or argument > _LONGEST_ARGUMENT:
        raise _refuse(what, "a tag or an indefinite length", begins)
    if argument >= _ARGUMENT_FOLLOWS:
        follows = at + (1 << (argument - _ARGUMENT_FOLLOWS))
        argument, at = int.from_bytes(data[at:follows]), follows
    if major in _MAJORS_WITH_CONTENT and argument > len(data):
        raise _refuse(what, f"an item of {argument} parts", begins)
    return major, argument, at


def _refuse(what: str, problem: str, offset: int) -> UntrustedInput:
    return UntrustedInput("TDM-CBOR-NOT-CANONICAL", f"{what}: {problem}", hint=_HINT, offset=offset)
