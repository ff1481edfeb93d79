"""A frozen dataclass to a canonical CBOR map and back, every field checked for type.

One rule serves the pair record, the deep quote and the messages between processes: a map has
exactly the fields of its dataclass, no more and no fewer, each of exactly its annotated type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import GenericAlias
from typing import Any, Final, TypeVar, get_args, get_type_hints

from tandem.errors import UntrustedInput

Fields = TypeVar("Fields")
MAX_INTEGER: Final = (1 << 64) - 1
_TYPES: Final[dict[type[Any], dict[str, Any]]] = {}  # resolved annotations, by dataclass


def to_map(value: object) -> dict[str, object]:
    """Give the fields of a dataclass instance by name."""
    return {name: getattr(value, name) for name in _types(type(value))}


def from_map(kind: type[Fields], fields: Mapping[str, object], what: str) -> Fields:
    """Build `kind` from `fields`, or refuse the first one that is missing, extra or ill-typed."""
    types = _types(kind)
    if fields.keys() != types.keys():
        odd = min(ascii(name) for name in fields.keys() ^ types.keys())
        raise _refuse(what, f"field {odd[:40]} is missing or unknown")
    return kind(**{name: _checked(fields[name], types[name], f"{what}.{name}") for name in types})


def _types(kind: type[Any]) -> dict[str, Any]:
    if kind not in _TYPES:
        hints = get_type_hints(kind)
        _TYPES[kind] = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return _TYPES[kind]


def _checked(value: object, kind: Any, what: str) -> object:
    if isinstance(kind, GenericAlias):
        return _checked_collection(value, kind, what)
    if type(value) is not getattr(kind, "__supertype__", kind):
        raise _refuse(what, f"a {type(value).__name__}, not a {kind.__name__}")
    if type(value) is int and not 0 <= value <= MAX_INTEGER:
        raise _refuse(what, "an integer outside 64 unsigned bits")
    return value


def _checked_collection(value: object, kind: GenericAlias, what: str) -> object:
    arguments = get_args(kind)
    if kind.__origin__ is tuple and isinstance(value, (list, tuple)):
        return tuple(_checked(item, arguments[0], what) for item in value)
    if kind.__origin__ is dict and isinstance(value, Mapping):
        return {
            _checked(key, arguments[0], what): _checked(item, arguments[1], what)
            for key, item in value.items()
        }
    raise _refuse(what, f"a {type(value).__name__}, not a {kind.__origin__.__name__}")


def _refuse(what: str, problem: str) -> UntrustedInput:
    hint = "the writer is another version or hostile"
    return UntrustedInput("TDM-FIELD-BAD", f"{what}: {problem}", hint=hint, offset=0)
