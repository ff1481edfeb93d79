"""Entries written into the source of a library, which people edit, too: the rest stays as it is."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from tandem.cli.library_sign import MAX_SOURCE
from tandem.cli.output import read_file, shown_path, write_file
from tandem.errors import UsageError
from tandem.evidence.strict_toml import parse_toml

NEW: Final = """\
# The library of domains: what this host may build, and nothing else.
# Sign it after each change:  tandem library sign --key KEY
"""
_HEADER: Final = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_TRAILER: Final = re.compile(r"\s*(#.*)?")


def read_entries(source: Path) -> dict[str, Any]:
    """Give the entries of a source; none where there is no file yet."""
    if not source.exists():
        return {}
    data = read_file(str(source), "library source")
    root = parse_toml(data, shown_path(source), "TDM-LIBRARY-SOURCE-BAD", MAX_SOURCE)
    entries = root.at(root.typed(dict).get("entries", {}), "entries")
    return dict(entries.typed(dict))


def put_entry(source: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Add an entry to a source, or replace the one of that name where it stands."""
    known = read_entries(source)
    text = read_file(str(source), "library source").decode() if source.exists() else NEW
    new = replaced(text, name, entry)
    wanted = {**_document(text), "entries": {**known, name: dict(entry)}}
    if _document(new) != wanted:
        raise UsageError(
            "TDM-LIBRARY-SOURCE-UNUSUAL",
            f"{source} is written in a way that no entry can be put into it without harm",
            hint=f"write the entry as [entries.{name}] with tables of its own, or by hand",
        )
    source.parent.mkdir(parents=True, exist_ok=True)
    write_file(str(source), new.encode(), "library source")


def _document(text: str) -> dict[str, Any]:
    """Give what a text says; nothing where it was put together so that it is no TOML."""
    try:
        return tomllib.loads(text.encode().decode())
    except ValueError:  # TOMLDecodeError, and UnicodeEncodeError of an argument that is no text
        return {}


def replaced(text: str, name: str, entry: Mapping[str, Any]) -> str:
    """Give the text with the entry in place of the one of that name, or at its end."""
    others, at = list[list[str]](), None
    for header, lines in _sections(text):
        if header == f"entries.{name}" or header.startswith(f"entries.{name}."):
            if at is None:
                others.append(list(takewhile(_TRAILER.fullmatch, lines)))  # what stands before it
                at = len(others)
        else:
            others.append(lines)
    block = write_entry(name, entry).rstrip("\n").split("\n")
    if at is None:
        return text.rstrip("\n") + "\n\n" + "\n".join(block) + "\n"
    before, after = ([line for lines in part for line in lines]
                     for part in (others[:at], others[at:]))  # fmt: skip
    return "\n".join([*before, *block, *([""] if after else []), *after]).rstrip("\n") + "\n"


def write_entry(name: str, entry: Mapping[str, Any]) -> str:
    """Write an entry as TOML: its values, then its tables."""
    return "\n".join(_table(f"entries.{name}", entry)) + "\n"


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Part a text at its headers; comments and blank lines before one go with it."""
    header, lines = "", list[str]()
    for line in text.rstrip("\n").split("\n"):  # not at what Unicode takes for the end of one
        found = _HEADER.match(line)
        if found:
            trailer: list[str] = []
            while lines and _TRAILER.fullmatch(lines[-1]):
                trailer.insert(0, lines.pop())
            yield header, lines
            header, lines = found.group(1), trailer
        lines.append(line)
    yield header, lines


def _table(path: str, fields: Mapping[str, Any]) -> Iterator[str]:
    yield f"[{path}]"
    yield from _fields(path, fields)


def _fields(path: str, fields: Mapping[str, Any]) -> Iterator[str]:
    below = {key: value for key, value in fields.items() if _is_table(value)}
    for key, value in fields.items():
        if key not in below:
            yield f"{_key(key)} = {_literal(value)}"
    for key, value in below.items():
        if isinstance(value, Mapping):
            yield ""
            yield from _table(f"{path}.{_key(key)}", value)
            continue
        for each in value:
            yield ""
            yield f"[[{path}.{_key(key)}]]"
            yield from _fields(f"{path}.{_key(key)}", each)


def _is_table(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, Mapping) for each in value)
    return isinstance(value, Mapping)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _literal(key)


def _literal(value: object) -> str:
    """Write a value as JSON does, but for what TOML has otherwise: surrogates, and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
