"""The store's file: SQLite with WAL, synced at each commit, one transaction for each commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tandem.errors import HostError

FORMAT: Final = 2  # PRAGMA user_version
PRIMARY_CODE: Final = 0xFF  # of an extended result code (sqlite.org/rescode.html)
_OF_THE_DISK: Final = (
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY),
)
_SCHEMA: Final = """
CREATE TABLE record (id TEXT PRIMARY KEY, version INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE chain (only INTEGER PRIMARY KEY CHECK (only = 0), link BLOB NOT NULL) STRICT;
"""
Sealed = tuple[int, bytes]  # a record's version and its sealed bytes


class NotWritten(HostError):
    """The disk did not take a commit: nothing was changed, and the next one may succeed."""


class StoreFile:
    """All records and the chain's link, as they are on disk."""

    def __init__(self, path: Path, *, create: bool) -> None:
        if path.exists() == create:
            raise HostError(
                "TDM-STORE-EXISTS" if create else "TDM-STORE-MISSING",
                f"the Manager's store {path} {'exists already' if create else 'is missing'}",
                hint="make a host with `tandem host init`, once, in a directory of its own",
            )
        self._path = path
        self.connection = _connect(path)
        if create:
            self._make()

    def read(self) -> tuple[dict[str, Sealed], bytes]:
        """Give all records and the chain's link; a file that is no store is damaged."""
        try:
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            if version != FORMAT:
                raise self.damaged(f"format {version}, not {FORMAT}")
            stored = self.connection.execute("SELECT id, version, sealed FROM record").fetchall()
            (link,) = self.connection.execute("SELECT link FROM chain").fetchone() or (b"",)
        except sqlite3.DatabaseError as error:
            raise _not_opened(self._path, error) from error
        if not all(_well_typed(*each) for each in stored) or not isinstance(link, bytes):
            raise self.damaged("columns are of wrong types")
        return {name: (version, sealed) for name, version, sealed in stored}, link

    def write(self, written: Mapping[str, Sealed], removed: Iterable[str], link: bytes) -> None:
        """Make one commit durable, or none of it."""
        try:
            with self.connection:
                self.connection.executemany(
                    "INSERT OR REPLACE INTO record VALUES (?, ?, ?)",
                    [(name, version, sealed) for name, (version, sealed) in written.items()],
                )
                self.connection.executemany(
                    "DELETE FROM record WHERE id = ?", [(name,) for name in removed]
                )
                self.connection.execute("INSERT OR REPLACE INTO chain VALUES (0, ?)", (link,))
        except sqlite3.Error as error:
            raise _not_written(error) from error

    def damaged(self, what: str) -> HostError:
        """Say that the file is not what was written."""
        return _damaged(self._path, what)

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def _make(self) -> None:
        try:
            self.connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT"
            )
        except sqlite3.Error as error:
            self.connection.close()
            raise _not_written(error) from error


def _well_typed(name: object, version: object, sealed: object) -> bool:
    known = isinstance(name, str) and isinstance(sealed, bytes)
    return known and isinstance(version, int) and version > 0


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level="IMMEDIATE")
    except sqlite3.Error as error:
        raise _not_opened(path, error) from error
    try:
        # EXTRA, and first: the very first transaction, which turns WAL on, has a journal beside the
        # file, and a power cut could bring that back after its removal and so undo the whole store.
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        connection.close()
        raise _not_opened(path, error) from error
    return connection


def _not_opened(path: Path, error: sqlite3.Error) -> HostError:
    """Tell a store that is damaged from a disk that does not serve it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & PRIMARY_CODE in _OF_THE_DISK:
        return HostError(
            "TDM-STORE-NOT-OPENED",
            f"the Manager's store {path} cannot be opened: {error}",
            hint="make room on the disk of the host's directory, and see that it can be written",
        )
    return _damaged(path, str(error))


def _damaged(path: Path, what: str) -> HostError:
    return HostError(
        "TDM-STORE-DAMAGED",
        f"the Manager's store {path} is damaged: {what}",
        hint="put the newest store back: the pTPM refuses every older copy",
    )


def _not_written(error: sqlite3.Error) -> NotWritten:
    return NotWritten(
        "TDM-STORE-NOT-WRITTEN",
        f"the Manager's store cannot be written: {error}",
        hint="make room on the disk of the host's directory",
    )
