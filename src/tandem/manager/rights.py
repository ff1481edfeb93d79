"""Who may ask the Manager what: each kind of request needs one right, each user has some.

The kernel says who is connected (SO_PEERCRED, SO_PEERGROUPS).  Root has every right, the broker's
own user that of the broker; `manager-clients.toml` in the host's directory gives others theirs.
"""

from __future__ import annotations

import array
import errno
import grp
import os
import pwd
import socket
import struct
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from tandem.errors import HostError, UsageError
from tandem.settings import BROKER_UID
from tandem.wire.group_rpc import AskGroups, AskVtpms
from tandem.wire.manager_rpc import (
    AskExport,
    AskHostLog,
    AskMetrics,
    AskStatus,
    Attend,
    ClosePair,
    OpenBroker,
    OpenPair,
    RejoinPair,
)

SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; the socket module has no name for it
PEERGROUPS_MOST: Final = 1024  # bytes: what Python's getsockopt takes at most
UCRED: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))
MAX_TABLE: Final = 64 * 1024
WRITABLE_BY_OTHERS: Final = 0o022
NOBODY: Final = 65534  # what the kernel shows of users that a namespace does not have


class Right(StrEnum):
    """What a client may do."""

    BUILDER = "builder"  # open and close pairs
    BROKER = "broker"  # have the channel of filtered TPM commands
    OBSERVE = "observe"  # status, metrics, and the host's public identity
    ADMINISTER = "administer"  # all that is not one of the others'


NEEDED: Final[Mapping[type, Right]] = {
    OpenPair: Right.BUILDER,
    ClosePair: Right.BUILDER,
    RejoinPair: Right.BUILDER,
    Attend: Right.BUILDER,
    OpenBroker: Right.BROKER,
    AskStatus: Right.OBSERVE,
    AskExport: Right.OBSERVE,
    AskHostLog: Right.OBSERVE,
    AskMetrics: Right.OBSERVE,
    AskGroups: Right.OBSERVE,
    AskVtpms: Right.OBSERVE,
}


def needed(kind: type) -> Right:
    """Give the right that a message needs; one that nobody thought of is the administrator's."""
    return NEEDED.get(kind, Right.ADMINISTER)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who is on the other side of a Unix socket."""

    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Rights:
    """The rights of users and groups, by number."""

    users: Mapping[int, frozenset[Right]] = field(default_factory=dict)
    groups: Mapping[int, frozenset[Right]] = field(default_factory=dict)

    def of(self, peer: Peer) -> frozenset[Right]:
        """Give what a peer may do: what its user may, and what each of its groups may."""
        if peer.uid == 0:
            return frozenset(Right)
        own = frozenset({Right.BROKER}) if peer.uid == BROKER_UID else frozenset()
        by_group = (self.groups.get(group, frozenset()) for group in peer.groups)
        return own.union(self.users.get(peer.uid, frozenset()), *by_group)

    @property
    def for_others(self) -> bool:
        """Whether somebody is to reach the socket who is neither root nor the broker."""
        return bool(self.users or self.groups)


def peer_of(sock: socket.socket) -> Peer:
    """Ask the kernel who connected; of somebody with hundreds of groups the first is taken."""
    ucred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    _, uid, gid = UCRED.unpack(ucred)
    groups = array.array("I")
    try:
        groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, PEERGROUPS_MOST))
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
    return Peer(uid=uid, groups=frozenset({gid, *groups}))


def read_rights(path: Path) -> Rights:
    """Read the host's table; without one, root and the broker have rights alone."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(MAX_TABLE + 1)
    except FileNotFoundError:
        return Rights()
    except OSError as error:
        raise _bad(path, error.strerror or "it cannot be read") from error
    if status.st_uid != 0 or status.st_mode & WRITABLE_BY_OTHERS:
        raise HostError(
            "TDM-CLIENTS-TABLE-WRITABLE",
            f"{path} can be written by others than root: they would give themselves rights",
            hint=f"chown root {path} && chmod go-w {path}",
        )
    if len(content) > MAX_TABLE:
        raise _bad(path, f"it has more than {MAX_TABLE} bytes")
    try:
        return parse_rights(content, _uid_of, _gid_of)
    except ValueError as error:
        raise _bad(path, str(error)) from error


def parse_rights(
    content: bytes, uid_of: Callable[[str], int], gid_of: Callable[[str], int]
) -> Rights:
    """Read a table (TOML) with `[users]` and `[groups]`; each name has a list of rights.

    Errors: ValueError that says what is wrong.
    """
    table = tomllib.loads(content.decode())
    unknown = table.keys() - {"users", "groups"}
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!a} is neither [users] nor [groups]")
    return Rights(
        users=_numbered("users", table.get("users", {}), uid_of),
        groups=_numbered("groups", table.get("groups", {}), gid_of),
    )


def _numbered(
    name: str, table: Any, number_of: Callable[[str], int]
) -> dict[int, frozenset[Right]]:
    if not isinstance(table, dict):
        raise ValueError(f"{name} is no table")  # noqa: TRY004 - of the table's content, all of it
    found = {number_of(who): _rights(who, rights) for who, rights in table.items()}
    if NOBODY in found:
        raise ValueError("'nobody' is whoever has no number here")
    return found


def _rights(who: str, rights: Any) -> frozenset[Right]:
    known = {str(right) for right in Right}
    if not isinstance(rights, list) or not all(
        isinstance(right, str) and right in known for right in rights
    ):
        raise ValueError(f"{who[:40]!a} needs a list of rights: {', '.join(sorted(known))}")
    return frozenset(map(Right, rights))


def _uid_of(name: str) -> int:
    return _number(name, "user", lambda: pwd.getpwnam(name).pw_uid)


def _gid_of(name: str) -> int:
    return _number(name, "group", lambda: grp.getgrnam(name).gr_gid)


def _number(name: str, kind: str, look_up: Callable[[], int]) -> int:
    """Give the number that a name stands for; digits are a number already."""
    if name.isascii() and name.isdigit() and len(name) <= 10:
        return int(name)
    try:
        return look_up()
    except (KeyError, ValueError):
        raise ValueError(f"there is no {kind} {name[:40]!a}") from None


def _bad(path: Path, problem: str) -> UsageError:
    return UsageError(
        "TDM-CLIENTS-TABLE",
        f"{path} is no table of the Manager's clients: {problem[:300]}",
        hint='write for example: [users] and below it prometheus = ["observe"]',
    )
