"""What each user of the host may do with the pTPM: `broker.toml`, read by broker and gate alike.

A range of NV indices or persistent handles is a right and a quota in one: it has that many numbers.
What is the Manager's is in nobody's range.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from tandem.errors import UsageError
from tandem.wire.tpm_commands import ENDORSEMENT, NULL, OWNER, REGISTERS

HIERARCHIES: Final = {"owner": OWNER, "null": NULL, "endorsement": ENDORSEMENT}
STORAGE_ROOT: Final = 0x81000001  # SRK (TCG Provisioning Guidance, 7.8)
UNGRANTED_REGISTERS: Final = frozenset({17, 18, 19, 20, 21, 22})  # the D-RTM's; locality 0 never
PORTS: Final = range(1024, 65535)  # the next one is taken, too
_NUMBERS: Final = re.compile(r"(0x[0-9a-fA-F]{8})(?:-(0x[0-9a-fA-F]{8}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Handles from `first` to `last`, both included."""

    first: int
    last: int

    def __contains__(self, handle: int) -> bool:
        return self.first <= handle <= self.last

    def meets(self, other: Range) -> bool:
        """Whether any handle is in both."""
        return self.first <= other.last and other.first <= self.last


MANAGER_PERSISTENT: Final = Range(first=0x81015440, last=0x8101544F)
MANAGER_INDICES: Final = Range(first=0x01800540, last=0x0180054F)
EK_CERTIFICATES: Final = Range(first=0x01C00000, last=0x01C07FFF)  # EK Credential Profile, 2.2.1.4
INDICES: Final = Range(first=0x01000000, last=0x01BFFFFF)
PERSISTENT: Final = Range(first=0x81000000, last=0x817FFFFF)  # owner's half (Part 2, 7.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """The rights of one user, or of all together."""

    hierarchies: frozenset[int] = frozenset({OWNER, NULL})
    extend: frozenset[int] = frozenset()
    read_registers: bool = True
    nv: tuple[Range, ...] = ()
    nv_size: int = 512  # bytes of the largest index
    nv_writes: int = 360  # an hour, of indices and persistent objects
    persistent: tuple[Range, ...] = ()
    shared: frozenset[int] = frozenset({STORAGE_ROOT})  # to use, not to evict
    objects: int = 64  # transient ones and sequences at once
    sessions: int = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """Where the broker listens beside its Unix socket: each TCP port and the one after it."""

    mssim: int | None = None  # for libtss2-tcti-mssim
    swtpm: int | None = None  # for libtss2-tcti-swtpm
    group: str | None = None  # whose members alone may open the Unix socket


@dataclass(frozen=True, kw_only=True, slots=True)
class RightsFile:
    """Rights by numeric user; `default` is for those not named, None where they may not connect."""

    default: Rights | None
    users: Mapping[int, Rights]
    listen: Listen = Listen()

    def of(self, uid: int) -> Rights | None:
        """Give the rights of a user, or None where that user may not connect."""
        return self.users.get(uid, self.default)

    def union(self) -> Rights:
        """Give what any user may do: nothing beyond it ever has to reach the pTPM."""
        every = [*self.users.values()] + ([] if self.default is None else [self.default])
        return Rights(
            hierarchies=frozenset().union(*(each.hierarchies for each in every)) | {NULL},
            extend=frozenset().union(*(each.extend for each in every)),
            read_registers=any(each.read_registers for each in every),
            nv=tuple(part for each in every for part in each.nv),
            nv_size=max((each.nv_size for each in every), default=0),
            nv_writes=sum(each.nv_writes for each in every),
            persistent=tuple(part for each in every for part in each.persistent),
            shared=frozenset().union(*(each.shared for each in every)),
        )


DEFAULT_RIGHTS: Final = RightsFile(default=None, users={0: Rights()})


def parse_rights(text: str) -> RightsFile:
    """Read `broker.toml`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(f"is no TOML: {error}") from error
    unknown = content.keys() - {"default", "uid", "listen"}
    if unknown:
        raise _wrong(f"has the unknown table {min(unknown)!a}")
    users = _table(content.get("uid", {}), "uid")
    for name in users:
        if not (name.isascii() and name.isdecimal()):
            raise _wrong(f"names the user {name!a}, not a number as in [uid.1000]")
    return RightsFile(
        default=_rights(content["default"], "default") if "default" in content else None,
        users={int(name): _rights(users[name], f"uid.{name}") for name in users},
        listen=_listen(_table(content.get("listen", {}), "listen")),
    )


def _listen(table: dict[str, Any]) -> Listen:
    unknown = table.keys() - {field.name for field in fields(Listen)}
    if unknown:
        raise _wrong(f"[listen] has the unknown key {min(unknown)!a}")
    for key in table.keys() - {"group"}:
        if type(table[key]) is not int or table[key] not in PORTS:
            raise _wrong(f"[listen] {key} is {table[key]!a}, not a port from 1024 to 65534")
    if not isinstance(table.get("group", ""), str):
        raise _wrong("[listen] group is no group's name")
    ports = [table[key] for key in ("mssim", "swtpm") if key in table]
    if len({port + add for port in ports for add in (0, 1)}) < 2 * len(ports):
        raise _wrong("[listen] has ports that overlap: each protocol takes two, N and N + 1")
    return Listen(**table)


def _rights(value: object, where: str) -> Rights:
    table = _table(value, where)
    unknown = table.keys() - {field.name for field in fields(Rights)}
    if unknown:
        raise _wrong(f"[{where}] has the unknown key {min(unknown)!a}")
    return replace(Rights(), **{key: _READERS[key](table[key], where, key) for key in table})


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{where} is no table")
    return value


def _hierarchies(value: object, where: str, key: str) -> frozenset[int]:
    names = _texts(value, where, key)
    unknown = [name for name in names if name not in HIERARCHIES]
    if unknown:
        raise _wrong(f"[{where}] {key} names {unknown[0]!a}, not one of {', '.join(HIERARCHIES)}")
    return frozenset(HIERARCHIES[name] for name in names)


def _registers(value: object, where: str, key: str) -> frozenset[int]:
    found = value if isinstance(value, list) else [None]
    wrong = [
        each
        for each in found
        if type(each) is not int or not 0 <= each < REGISTERS or each in UNGRANTED_REGISTERS
    ]
    if wrong:
        raise _wrong(f"[{where}] {key} has {wrong[0]!a}, no register that a program may extend")
    return frozenset(found)


def _yes_or_no(value: object, where: str, key: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(f"[{where}] {key} is neither true nor false")
    return value


def _indices(value: object, where: str, key: str) -> tuple[Range, ...]:
    return _ranges(value, where, key, within=INDICES)


def _persistent(value: object, where: str, key: str) -> tuple[Range, ...]:
    return _ranges(value, where, key, within=PERSISTENT)


def _shared(value: object, where: str, key: str) -> frozenset[int]:
    found = _ranges(value, where, key, within=PERSISTENT)
    if any(part.first != part.last for part in found):
        raise _wrong(f"[{where}] {key} has a range; name single handles")
    return frozenset(part.first for part in found)


def _ranges(value: object, where: str, key: str, *, within: Range) -> tuple[Range, ...]:
    return tuple(_range(text, where, key, within) for text in _texts(value, where, key))


def _range(text: str, where: str, key: str, within: Range) -> Range:
    match = _NUMBERS.fullmatch(text)
    if match is None:
        raise _wrong(f"[{where}] {key} has {text!a}, not 0x01500000-0x0150000f")
    found = Range(first=int(match[1], 16), last=int(match[2] or match[1], 16))
    if found.first > found.last or found.first not in within or found.last not in within:
        raise _wrong(f"[{where}] {key} has {text}, not within {within.first:#x}-{within.last:#x}")
    if found.meets(MANAGER_INDICES) or found.meets(MANAGER_PERSISTENT):
        raise _wrong(f"[{where}] {key} has {text}, which is the Manager's")
    return found


def _count(value: object, where: str, key: str) -> int:
    most = _MOST[key]
    if type(value) is not int or not 0 < value <= most:
        raise _wrong(f"[{where}] {key} is {value!a}, not between 1 and {most}")
    return value


def _texts(value: object, where: str, key: str) -> Iterable[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _wrong(f"[{where}] {key} is no list of texts")
    return value


def _wrong(problem: str) -> UsageError:
    return UsageError(
        "TDM-BROKER-RIGHTS",
        f"broker.toml {problem}",
        hint="correct it, as the guide `Let programs use the pTPM` shows, and restart the host",
    )


_MOST: Final = {"nv_size": 2048, "nv_writes": 1_000_000, "objects": 1024, "sessions": 40}
_READERS: Final[Mapping[str, Callable[[object, str, str], Any]]] = {
    "hierarchies": _hierarchies,
    "extend": _registers,
    "read_registers": _yes_or_no,
    "nv": _indices,
    "nv_size": _count,
    "nv_writes": _count,
    "persistent": _persistent,
    "shared": _shared,
    "objects": _count,
    "sessions": _count,
}
