"""Every command of the TPM 2.0 library specification, and what the rest of the host may do with it.

The table itself is `tpm_table.toml` beside this file, for people to read; broker and gate both go
by it, each for itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any, Final

TABLE_FILE: Final = "tpm_table.toml"
AUTHORIZED: Final = "@"
_READ_ONLY: Final = "-read"


class Rule(StrEnum):
    """What is checked beyond that each handle is the client's own or granted."""

    ALLOW = "allow"
    REFUSE = "refuse"
    EXTEND = "extend"  # granted registers
    REGISTERS = "registers"  # unless the client may not read registers
    DEFINE = "define"  # NV_DefineSpace
    PERSIST = "persist"  # EvictControl
    QUICK = "quick"  # SelfTest that is not full
    TURN = "turn"  # one client at a time
    VIRTUAL = "virtual"  # contexts and flushes: the broker's own bookkeeping
    FILTER = "filter"  # GetCapability
    STARTED = "started"  # Startup


class Kind(StrEnum):
    """What a handle of the handle area stands for."""

    OBJECT = "object"
    SEQUENCE = "sequence"
    SESSION = "session"
    PCR = "pcr"
    HIERARCHY = "hierarchy"
    PRIVACY = "privacy"
    AUTHORITY = "authority"
    INDEX = "index"
    COMPONENT = "component"
    TIMER = "timer"


class Created(StrEnum):
    """What the handle in a response stands for."""

    OBJECT = "object"
    SEQUENCE = "sequence"
    SESSION = "session"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One handle of a command's handle area."""

    kind: Kind
    authorized: bool
    reads: bool  # an index is read and never changed


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One command."""

    name: str
    code: int
    places: tuple[Place, ...]
    authorizations: int  # how many sessions or passwords it needs at least
    creates: Created | None
    ends: int | None  # place of the sequence that success flushes
    scheme: int | None  # TPM2Bs before a signing scheme
    creation: int | None  # TPM2Bs before a selection of registers
    wears: bool  # writes NV memory
    rule: Rule
    why: str


def parse_table(text: str) -> dict[int, Row]:
    """Read the table; rows by command code.  ValueError and KeyError are mistakes in the file."""
    rows = [_row(name, fields) for name, fields in tomllib.loads(text).items()]
    table = {row.code: row for row in rows}
    if len(table) != len(rows):
        raise ValueError("two commands have one code")
    return table


def _row(name: str, fields: dict[str, Any]) -> Row:
    places = tuple(_place(text) for text in fields.pop("handles", ()))
    created = fields.pop("creates", None)
    row = Row(
        name=name,
        code=fields.pop("code"),
        places=places,
        authorizations=sum(place.authorized for place in places),
        creates=None if created is None else Created(created),
        ends=fields.pop("ends", None),
        scheme=fields.pop("scheme", None),
        creation=fields.pop("creation", None),
        wears=fields.pop("wears", False),
        rule=Rule(fields.pop("rule")),
        why=fields.pop("why"),
    )
    if fields:
        raise ValueError(f"{name} has unknown fields: {', '.join(fields)}")
    return row


def _place(text: str) -> Place:
    kind = text.removeprefix(AUTHORIZED)
    return Place(
        kind=Kind(kind.removesuffix(_READ_ONLY)),
        authorized=text.startswith(AUTHORIZED),
        reads=kind.endswith(_READ_ONLY),
    )


TABLE: Final[Mapping[int, Row]] = parse_table(
    resources.files(__package__).joinpath(TABLE_FILE).read_text(encoding="utf-8")
)
