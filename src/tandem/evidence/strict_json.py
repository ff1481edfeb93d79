"""JSON from outside, read one way only: no name twice, no unknown or missing key, exact types.

A `Place` is a value together with where it stands (`$.entries.web.kernel`), so that each refusal
names the place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from tandem.errors import UntrustedInput
from tandem.values import NAME_PATTERN

Kind = TypeVar("Kind")
MAX_TEXT: Final = 64 * 1024
MAX_DEPTH: Final = 16
MAX_PARTS: Final = 1 << 18  # texts, brackets and commas: each value of a document has one
_PART: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One value of a document and its path in it."""

    value: Any
    path: str
    what: str  # the document, in words
    code: str  # of its refusals

    def refuse(self, problem: str) -> NoReturn:
        """Refuse the document because of this place."""
        raise UntrustedInput(
            self.code,
            f"{self.what}: {self.path}: {problem}",
            hint="correct the file at the place named, or make it anew",
            offset=0,
        )

    def at(self, value: object, step: str) -> Place:
        """Give a value below this place."""
        return Place(value=value, path=f"{self.path}.{step}", what=self.what, code=self.code)

    def replaced(self, value: object) -> Place:
        """Give another value at this place."""
        return Place(value=value, path=self.path, what=self.what, code=self.code)

    def typed(self, kind: type[Kind]) -> Kind:
        """Give the value, which must be of exactly this type."""
        if type(self.value) is not kind:
            self.refuse(f"a {type(self.value).__name__}, not a {kind.__name__}")
        found: Kind = self.value
        return found

    def fields(self, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Place]:
        """Give the members of an object that must have the required keys and may have others."""
        found, must = self.typed(dict), set(required)
        unknown = sorted(found.keys() - must - set(optional))
        missing = sorted(must - found.keys())
        if unknown or missing:
            word, name = ("unknown", unknown[0]) if unknown else ("missing", missing[0])
            self.refuse(f"{word} key {name[:64]!a}")
        return {name: self.at(value, name) for name, value in found.items()}

    def members(self) -> Iterator[tuple[str, Place]]:
        """Give the members of an object whose keys are names (labels)."""
        for name, value in self.typed(dict).items():
            if not NAME_PATTERN.fullmatch(name):
                self.refuse(f"{name[:64]!a} is not a name of lower-case letters, digits, hyphens")
            yield name, self.at(value, name)

    def items(self, limit: int) -> Iterator[Place]:
        """Give the items of a list of at most `limit`."""
        found = self.typed(list)
        if len(found) > limit:
            self.refuse(f"{len(found)} items, more than {limit}")
        for number, value in enumerate(found):
            yield self.at(value, str(number))

    def text(self, limit: int = MAX_TEXT) -> str:
        """Give a text of at most `limit` printable ASCII characters."""
        found = self.typed(str)
        if len(found) > limit or not (found.isascii() and (found.isprintable() or not found)):
            self.refuse(f"not a text of at most {limit} printable ASCII characters")
        return found

    def name(self) -> str:
        """Give a label: the name of a guest, an entry or a group."""
        found = self.text()
        if not NAME_PATTERN.fullmatch(found):
            self.refuse(f"{found[:64]!a} is not a name of lower-case letters, digits, hyphens")
        return found

    def one_of(self, *choices: str) -> str:
        """Give a text that is one of the choices."""
        found = self.text()
        if found not in choices:
            self.refuse(f"{found[:64]!a} is not one of {', '.join(choices)}")
        return found

    def integer(self, low: int, high: int) -> int:
        """Give an integer within the limits, both included."""
        found = self.typed(int)
        if not low <= found <= high:
            self.refuse(f"not between {low} and {high}")
        return found

    def hexadecimal(self, size: int) -> bytes:
        """Give the bytes of a lower-case hexadecimal text of exactly `size` bytes."""
        found = self.typed(str)
        if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", found):
            self.refuse(f"not {2 * size} lower-case hexadecimal digits")
        return bytes.fromhex(found)

    def some_hexadecimal(self, limit: int) -> bytes:
        """Give the bytes of a lower-case hexadecimal text of 1 to `limit` bytes."""
        return self.hexadecimal(min(max(1, len(self.typed(str)) // 2), limit))


def parse_json(data: bytes, what: str, code: str, limit: int) -> Place:
    """Read a JSON document of at most `limit` bytes."""
    root = Place(value=None, path="$", what=what, code=code)
    if len(data) > limit:
        root.refuse(f"{len(data)} bytes, more than {limit}")
    if not is_plain(data):
        root.refuse(f"nested deeper than {MAX_DEPTH}, or of more than {MAX_PARTS} parts")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (UnicodeDecodeError, ValueError) as error:
        root.refuse(f"not JSON: {type(error).__name__}")
    return root.replaced(value)


def is_plain(data: bytes) -> bool:
    """Whether a JSON document is shallow and small enough to build: known before it is built."""
    level = 0
    for count, part in enumerate(_PART.finditer(data), 1):
        first = data[part.start()]
        level += (first in b"[{") - (first in b"]}")
        if level > MAX_DEPTH or count > MAX_PARTS:
            return False
    return True


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found
