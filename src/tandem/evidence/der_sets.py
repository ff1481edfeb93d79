"""DER whose sets are in order, made from what a TPM vendor wrote in another.

DER wants the members of a SET sorted (X.690, 11.6), and a strict reader refuses others.  Nuvoton's
certificates have them as they came.  Sorting says the same and has the same size; what was signed
are the bytes as written, so that is what signatures are checked over.
"""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 16
_CONSTRUCTED: Final = 0x20
_OCTET_STRING: Final = 0x04  # extensions are wrapped in one
_SET: Final = 0x31
_LONG: Final = 0x80  # in the length: so many bytes of it follow


def with_sorted_sets(der: bytes) -> bytes:
    """Give the same values with the members of each SET in DER's order, or raise ValueError."""
    return b"".join(_sorted(der, MAX_DEPTH))


def signed_part(der: bytes) -> bytes:
    """Give what a certificate's signature is over, as it is written: the first inner element."""
    _, outer, _ = _element(der, 0)
    _, content, end = _element(der, outer)
    return der[outer:end] if content <= end else b""


def _sorted(data: bytes, depth: int) -> list[bytes]:
    """Give the elements that follow each other in `data`."""
    if not depth:
        raise ValueError("nested too deeply")
    elements, at = [], 0
    while at < len(data):
        tag, content, end = _element(data, at)
        elements.append(data[at:content] + _content(tag, data[content:end], depth))
        at = end
    return elements


def _content(tag: int, data: bytes, depth: int) -> bytes:
    if tag == _OCTET_STRING:
        try:
            return b"".join(_sorted(data, depth - 1))
        except ValueError:  # no DER inside
            return data
    if not tag & _CONSTRUCTED:
        return data
    inner = _sorted(data, depth - 1)
    return b"".join(sorted(inner) if tag == _SET else inner)


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Read one element's head: its tag, where its content begins, and where it ends."""
    if len(data) - at < len(b"TL"):
        raise ValueError("ends inside an element")
    tag, size = data[at], data[at + 1]
    content = at + len(b"TL")
    if size & _LONG:
        count = size & ~_LONG
        size = int.from_bytes(data[content : content + count])
        content += count
    if content + size > len(data):
        raise ValueError("an element longer than what holds it")
    return tag, content, content + size
