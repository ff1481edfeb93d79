"""The Manager's store: sealed records in SQLite, and the chain that makes an older copy useless.

Each record is AES-256-GCM under the master key, bound to its id and version.  So is the chain's
link, the anchored value before the newest commit, bound to the root over all records: nobody can
give old records a new place in the chain.  All changes that wait are one transaction (WAL,
synchronous=FULL) and one extend of the pTPM's index.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tandem.errors import HostError, Refused, TandemError
from tandem.manager.rollback import CHAIN_START, Standing, extended, standing, store_root
from tandem.values import Secret

FORMAT: Final = 1  # PRAGMA user_version
NONCE_SIZE: Final = 12
LINK_TAG: Final = b"\xffTANDEM-LINK-1\0\0"  # no version of a record begins so
PRIMARY_CODE: Final = 0xFF  # of an extended result code (sqlite.org/rescode.html)
_OF_THE_DISK: Final = (
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY),
)
_SCHEMA: Final = """
CREATE TABLE record (id TEXT PRIMARY KEY, version INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE chain (only INTEGER PRIMARY KEY CHECK (only = 0), link BLOB NOT NULL) STRICT;
"""


class NotWritten(HostError):
    """The disk did not take a commit: nothing was changed, and the next one may succeed."""


class NotAnchored(HostError):
    """A commit is durable, and whether the pTPM knows it, only the next start can tell."""


class Anchor(Protocol):
    """What keeps the newest chain value where no copy of the store can reach."""

    def read_chain(self) -> bytes:
        """Give the value that is anchored."""
        ...

    def extend_chain(self, data: bytes) -> None:
        """Extend it: SHA-256(value ‖ data)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """A record as it is stored, and what it says."""

    version: int
    digest: bytes  # SHA-256 of the sealed bytes
    content: bytes


class Store:
    """All records, in memory and on disk; open it with `create` or `load`."""

    def __init__(self, connection: sqlite3.Connection, master: Secret, anchor: Anchor) -> None:
        self._connection = connection
        self._cipher = AESGCM(master.reveal())
        self._anchor = anchor
        self._rows: dict[str, Row] = {}
        self._chain = CHAIN_START
        self._staged: dict[str, bytes] = {}
        self.commits = 0

    @classmethod
    def create(cls, path: Path, master: Secret, anchor: Anchor) -> Store:
        """Make an empty store; its first commit anchors it."""
        connection = _connect(path, create=True)
        try:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT")
        except sqlite3.Error as error:
            connection.close()
            raise _not_written(error) from error
        return cls(connection, master, anchor)

    @classmethod
    def load(cls, path: Path, master: Secret, anchor: Anchor) -> Store:
        """Open the newest store; an older, forked or damaged one is refused."""
        connection = _connect(path, create=False)
        store = cls(connection, master, anchor)
        try:
            store._read()
        except sqlite3.DatabaseError as error:
            store.close()
            raise _not_opened(path, error) from error
        except TandemError:
            store.close()
            raise
        return store

    def get(self, name: str) -> bytes | None:
        """Give a record's content; a staged change is seen at once."""
        if name in self._staged:
            return self._staged[name]
        row = self._rows.get(name)
        return None if row is None else row.content

    def names(self, prefix: str) -> Iterator[str]:
        """Give the ids that begin with `prefix`."""
        return (name for name in sorted(self._rows) if name.startswith(prefix))

    def stage(self, name: str, content: bytes) -> None:
        """Let the next commit write a record."""
        self._staged[name] = content

    @property
    def dirty(self) -> bool:
        """Whether a commit is due."""
        return bool(self._staged)

    def commit(self) -> None:
        """Make all staged changes durable, then anchor them; only then may anybody rely on them."""
        written = {name: self._seal(name, content) for name, content in self._staged.items()}
        self._staged.clear()
        rows = self._rows | {name: row for name, (row, _) in written.items()}
        root = _root(rows)
        link = self._encrypt(self._chain, _linked_to(root))
        try:
            with self._connection:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO record VALUES (?, ?, ?)",
                    [(name, row.version, sealed) for name, (row, sealed) in written.items()],
                )
                self._connection.execute("INSERT OR REPLACE INTO chain VALUES (0, ?)", (link,))
        except sqlite3.Error as error:
            raise _not_written(error) from error
        try:
            self._anchor.extend_chain(root)
        except HostError as error:
            raise NotAnchored(
                "TDM-STORE-NOT-ANCHORED",
                f"the pTPM did not confirm the newest commit: {error.problem}",
                hint="start the Manager again; it goes on from the state that the pTPM holds",
            ) from error
        self._chain = extended(self._chain, root)
        self._rows = rows
        self.commits += 1

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _read(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            raise sqlite3.DatabaseError(f"format {version}, not {FORMAT}")
        stored = self._connection.execute("SELECT id, version, sealed FROM record").fetchall()
        if not all(_well_typed(*each) for each in stored):
            raise sqlite3.DatabaseError("a record's columns are of wrong types")
        digests = [
            (name, number, hashlib.sha256(sealed).digest()) for name, number, sealed in stored
        ]
        root = store_root(digests)
        self._check_chain(self._previous(root), root)
        for (name, number, sealed), (_, _, digest) in zip(stored, digests, strict=True):
            content = self._decrypt(sealed, _bound_to(name, number), f"record {name[:64]!a}")
            self._rows[name] = Row(version=number, digest=digest, content=content)

    def _previous(self, root: bytes) -> bytes:
        """Give the chain's value before the commit that wrote exactly these records."""
        (link,) = self._connection.execute("SELECT link FROM chain").fetchone() or (b"",)
        return self._decrypt(bytes(link), _linked_to(root), "the chain's link to these records")

    def _check_chain(self, previous: bytes, root: bytes) -> None:
        match standing(previous=previous, root=root, anchored=self._anchor.read_chain()):
            case Standing.NEWEST:
                pass
            case Standing.ONE_STEP_AHEAD:
                self._anchor.extend_chain(root)
            case Standing.FOREIGN:
                raise Refused(
                    "TDM-ROLLBACK-STORE",
                    "the Manager's store is not the newest one that the pTPM knows: it is an older "
                    "copy, a fork, or another host's",
                    hint="put back the newest store; an old one would bring old vTPM states back",
                )
        self._chain = extended(previous, root)

    def _seal(self, name: str, content: bytes) -> tuple[Row, bytes]:
        version = self._rows[name].version + 1 if name in self._rows else 1
        sealed = self._encrypt(content, _bound_to(name, version))
        row = Row(version=version, digest=hashlib.sha256(sealed).digest(), content=content)
        return row, sealed

    def _encrypt(self, content: bytes, bound_to: bytes) -> bytes:
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, content, bound_to)

    def _decrypt(self, sealed: bytes, bound_to: bytes, what: str) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], bound_to)
        except (InvalidTag, ValueError):  # ValueError: a nonce too short
            raise sqlite3.DatabaseError(f"{what} does not decrypt") from None


def _root(rows: Mapping[str, Row]) -> bytes:
    return store_root((name, row.version, row.digest) for name, row in rows.items())


def _well_typed(name: object, version: object, sealed: object) -> bool:
    known = isinstance(name, str) and isinstance(sealed, bytes)
    return known and isinstance(version, int) and version > 0


def _bound_to(name: str, version: int) -> bytes:
    return version.to_bytes(8) + name.encode()


def _linked_to(root: bytes) -> bytes:
    return LINK_TAG + root


def _connect(path: Path, *, create: bool) -> sqlite3.Connection:
    if path.exists() == create:
        raise HostError(
            "TDM-STORE-EXISTS" if create else "TDM-STORE-MISSING",
            f"the Manager's store {path} {'exists already' if create else 'is missing'}",
            hint="make a host with `tandem host init`, once, in a directory of its own",
        )
    try:
        connection = sqlite3.connect(path, isolation_level="IMMEDIATE")
    except sqlite3.Error as error:
        raise _not_opened(path, error) from error
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        connection.close()
        raise _not_opened(path, error) from error
    return connection


def _not_opened(path: Path, error: sqlite3.Error) -> HostError:
    """Tell a store that is damaged from a disk that does not serve it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # none: found by `_read`
    if code & PRIMARY_CODE in _OF_THE_DISK:
        return HostError(
            "TDM-STORE-NOT-OPENED",
            f"the Manager's store {path} cannot be opened: {error}",
            hint="make room on the disk of the host's directory, and see that it can be written",
        )
    return HostError(
        "TDM-STORE-DAMAGED",
        f"the Manager's store {path} is damaged: {error}",
        hint="put the newest store back: the pTPM refuses every older copy",
    )


def _not_written(error: sqlite3.Error) -> NotWritten:
    return NotWritten(
        "TDM-STORE-NOT-WRITTEN",
        f"the Manager's store cannot be written: {error}",
        hint="make room on the disk of the host's directory",
    )
