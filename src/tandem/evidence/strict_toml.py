"""TOML that people write, read as strictly as JSON: every refusal names the place in the file."""

from __future__ import annotations

import tomllib
from typing import Final

from tandem.evidence.strict_json import MAX_DEPTH, Place

MAX_SHOWN: Final = 120  # characters of what the TOML reader says
PLAIN: Final = (str, int, float, bool)


def parse_toml(data: bytes, what: str, code: str, limit: int) -> Place:
    """Read a TOML document of at most `limit` bytes, of what JSON has, too."""
    root = Place(value=None, path="$", what=what, code=code)
    if len(data) > limit:
        root.refuse(f"{len(data)} bytes, more than {limit}")
    try:
        found = root.replaced(tomllib.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError, too
        root.refuse(f"not TOML: {str(error)[:MAX_SHOWN]!a}")
    _require_plain(found)
    return found


def _require_plain(root: Place) -> None:
    """Refuse dates and times, names that no message could show, and what is nested too deep."""
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [below for place in level for below in _below(place)]
    if level:
        root.refuse(f"nested deeper than {MAX_DEPTH}")


def _below(place: Place) -> list[Place]:
    if isinstance(place.value, dict):
        for name in place.value:
            if not name.isprintable():
                place.refuse(f"key {name[:64]!a} is not printable")
        return [place.at(value, name) for name, value in place.value.items()]
    if isinstance(place.value, list):
        return [place.at(value, str(number)) for number, value in enumerate(place.value)]
    if type(place.value) not in PLAIN:
        place.refuse(f"a {type(place.value).__name__}, and no value here is one: quote a text")
    return []
