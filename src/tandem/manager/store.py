"""The Manager's store: sealed records on disk, and the chain that makes an older copy useless.

Each commit is durable on disk first; then the pTPM's index is extended with the root over all
records, at once (strict) or together with later commits (`anchor=False`, the window mode).  The
chain's link on disk is sealed, bound to that root, and names the value that the pTPM holds until
then: nobody can give old records a new place in the chain.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from tandem.errors import HostError, Refused, TandemError
from tandem.evidence import canonical, record_fields
from tandem.manager.hash_tree import HashTree
from tandem.manager.rollback import CHAIN_START, Standing, extended, standing
from tandem.manager.sealing import NotSealed, Sealing, group_of
from tandem.manager.store_file import NotWritten, StoreFile
from tandem.values import Secret

__all__ = ["Anchor", "NotAnchored", "NotWritten", "Store"]
MAX_LINK: Final = 1024


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

    def noted(self) -> tuple[int, int]:
        """Give the store's version, and the writes of its anchor, as they were noted last."""
        ...

    def note(self, version: int, writes: int) -> None:
        """Note both, so that the refusal of an older store can name what is known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """A record as it is stored."""

    version: int
    sealed: bytes


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where these records stand in the chain."""

    previous: bytes  # what the pTPM holds before it is extended with their root
    number: int  # of the commit: the store's version
    anchors: int  # writes of the anchor since the store was made, that of their root included
    since: int  # when the store was made, seconds since 1970


class Store:
    """All records, in memory and on disk; open it with `create`, `load` or `adopt`."""

    def __init__(self, file: StoreFile, master: Secret, anchor: Anchor) -> None:
        self._file = file
        self._sealing = Sealing(master)
        self._anchor = anchor
        self._rows: dict[str, Row] = {}
        self._tree = HashTree()
        self._chain = CHAIN_START  # what the pTPM holds
        self._link = Link(previous=CHAIN_START, number=0, anchors=0, since=int(time.time()))
        self._staged: dict[str, bytes | None] = {}  # None: to be removed
        self.unanchored = False  # whether commits are durable that the pTPM was not told of
        self._unknown: NotAnchored | None = None  # why nobody knows what the pTPM holds
        self.commits = 0  # since this start

    @classmethod
    def create(cls, path: Path, master: Secret, anchor: Anchor) -> Store:
        """Make an empty store; its first commit anchors it."""
        return cls(StoreFile(path, create=True), master, anchor)

    @classmethod
    def load(cls, path: Path, master: Secret, anchor: Anchor) -> Store:
        """Open the newest store; an older, forked or damaged one is refused."""
        store = cls(StoreFile(path, create=False), master, anchor)
        try:
            store._read()
            store._check_chain()
        except TandemError:
            store.close()
            raise
        return store

    @classmethod
    def adopt(cls, path: Path, master: Secret, anchor: Anchor) -> Store:
        """Open a copy whatever the pTPM holds; its first commit makes it the newest there is.

        That takes back all that came after the copy: only for an explicit act of the administrator.
        """
        store = cls(StoreFile(path, create=False), master, anchor)
        try:
            store._read()
            store._chain = anchor.read_chain()
        except TandemError:
            store.close()
            raise
        return store

    @property
    def number(self) -> int:
        """The number of the newest commit, which is the store's version."""
        return self._link.number

    @property
    def anchors(self) -> int:
        """How often the anchor was written since the store was made: what wears the pTPM."""
        return self._link.anchors - self.unanchored

    @property
    def since(self) -> int:
        """When the store was made, in seconds since 1970."""
        return self._link.since

    @property
    def dirty(self) -> bool:
        """Whether a commit is due."""
        return bool(self._staged)

    def unlock(self, group: str, key: Secret) -> None:
        """Have the records `vtpm/<group>/…` readable and writable; a wrong key is refused."""
        self._sealing.unlock(group, key)
        known = next((name for name in self._rows if group_of(name) == group), None)
        if known is not None:
            try:
                self.get(known)
            except HostError:
                self._sealing.lock(group)
                raise

    def rekey(self, group: str, key: Secret) -> None:
        """Let the next commit write all records of an open group under another key.

        Where that is not written, `lock` the group: what is on disk is under the former one.
        """
        names = [name for name in self.names("") if group_of(name) == group]
        contents = {name: self.get(name) for name in names}
        self._sealing.unlock(group, key)
        self._staged.update(contents)

    def lock(self, group: str) -> None:
        """Forget a group's key."""
        self._sealing.lock(group)

    def get(self, name: str) -> bytes | None:
        """Give a record's content; a staged change is seen at once."""
        if name in self._staged:
            return self._staged[name]
        return self._opened(name) if name in self._rows else None

    def has(self, name: str) -> bool:
        """Whether there is a record, readable or not; a staged change is seen at once."""
        return (self._staged[name] is not None) if name in self._staged else name in self._rows

    def names(self, prefix: str) -> Iterator[str]:
        """Give the ids that begin with `prefix`, in order; staged changes are seen at once."""
        staged = {name for name, content in self._staged.items() if content is not None}
        present = self._rows.keys() - self._staged.keys() | staged
        return iter(sorted(name for name in present if name.startswith(prefix)))

    def stage(self, name: str, content: bytes) -> None:
        """Let the next commit write a record; one of a locked group is refused."""
        self._sealing.require(name)
        self._staged[name] = content

    def remove(self, name: str) -> None:
        """Let the next commit take a record away; no older copy brings it back after that.

        That takes no key: whoever removes a group removes what nobody can open any more.
        """
        self._staged[name] = None

    def commit(self, *, anchor: bool = True) -> None:
        """Make all staged changes durable, then anchor them; only then may anybody rely on them.

        With `anchor=False` they stay open to rollback, up to the next `commit` or `anchor`.
        After a `NotAnchored` there is no other commit: it would stand on a value that the pTPM may
        not hold any more, and no start would open it.
        """
        self._require_known_anchor()
        staged, self._staged = self._staged, {}
        removed = [name for name, content in staged.items() if content is None]
        rows = {name: self._sealed(name, each) for name, each in staged.items() if each is not None}
        for name, row in rows.items():
            self._tree.set(name, row.version, _digest(row))
        for name in removed:
            self._tree.remove(name)
        link = Link(
            previous=self._chain,
            number=self._link.number + 1,
            anchors=self._link.anchors + (not self.unanchored),
            since=self._link.since,
        )
        try:
            self._write(rows, removed, link)
        except NotWritten:
            self._restore(staged)
            raise
        self._rows.update(rows)
        for name in removed:
            self._rows.pop(name, None)
        self._link = link
        self.unanchored = True
        self.commits += 1
        if anchor:
            self.anchor()

    def anchor(self) -> None:
        """Tell the pTPM of all that is durable: nothing before it is taken for the newest again."""
        if not self.unanchored:
            return
        self._require_known_anchor()
        root = self._tree.root()
        try:
            self._anchor.extend_chain(root)
        except HostError as error:
            raise self.lose_anchor(error) from error
        self._chain = extended(self._chain, root)
        self.unanchored = False

    def lose_anchor(self, cause: TandemError) -> NotAnchored:
        """Commit nothing more, for nobody knows what the pTPM holds; gives the error to raise."""
        self._unknown = NotAnchored(
            "TDM-STORE-NOT-ANCHORED",
            f"the pTPM may not hold the anchor of the store's commit {self.number}: {cause}",
            hint="start the Manager again; it goes on from the state that the pTPM holds",
        )
        return self._unknown

    def note_version(self) -> None:
        """Have the pTPM know this version by its number: at each start and end, for it is a write.

        Nothing is decided by it; it is what the refusal of an older store names.
        """
        noted, _ = self._anchor.noted()
        if noted != self.number:
            self._anchor.note(self.number, self.anchors + 1)
            self._link = replace(self._link, anchors=self._link.anchors + 1)

    def copied(self, path: Path, master: Secret) -> Store:
        """Give the same records in a new file, under a new master key and what the anchor holds.

        The groups' records stay as they are sealed, those of locked groups too.
        """
        self._require_known_anchor()
        if self._staged or self.unanchored:
            raise ValueError("a store is copied between two commits")
        copy = Store(StoreFile(path, create=True), master, self._anchor)
        try:
            copy._take(self)
        except TandemError:
            copy.close()
            raise
        return copy

    def go_on_as(self, copy: Store) -> None:
        """Be the copy from now on; groups that are unlocked stay so."""
        self._file.close()
        self._sealing.take_master(copy._sealing)
        self._file, self._rows, self._tree = copy._file, copy._rows, copy._tree
        self._chain, self._link = copy._chain, copy._link

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _require_known_anchor(self) -> None:
        if self._unknown is not None:
            raise self._unknown.with_traceback(None)

    def _take(self, other: Store) -> None:
        """Have the records of another store, durable and anchored here, as one commit of it."""
        for name, row in other._rows.items():
            own = group_of(name) is None
            sealed = (
                self._sealing.seal(name, row.version, other._opened(name)) if own else row.sealed
            )
            self._rows[name] = Row(version=row.version, sealed=sealed)
        self._tree = HashTree((name, row.version, _digest(row)) for name, row in self._rows.items())
        self._chain = self._anchor.read_chain()
        self._link = replace(
            other._link,
            previous=self._chain,
            number=other.number + 1,
            anchors=other._link.anchors + 1,
        )
        self._write(self._rows, [], self._link)
        self.unanchored = True
        self.anchor()

    def _sealed(self, name: str, content: bytes) -> Row:
        version = self._rows[name].version + 1 if name in self._rows else 1
        return Row(version=version, sealed=self._sealing.seal(name, version, content))

    def _opened(self, name: str) -> bytes:
        row = self._rows[name]
        try:
            return self._sealing.open(name, row.version, row.sealed)
        except NotSealed:
            raise self._file.damaged(f"record {name[:64]!a} does not decrypt") from None

    def _write(self, rows: dict[str, Row], removed: list[str], link: Link) -> None:
        content = canonical.encode(record_fields.to_map(link))
        self._file.write(
            {name: (row.version, row.sealed) for name, row in rows.items()},
            removed,
            self._sealing.seal_link(content, self._tree.root()),
        )

    def _restore(self, staged: dict[str, bytes | None]) -> None:
        """Have the tree say again what is on disk."""
        for name in staged:
            row = self._rows.get(name)
            if row is None:
                self._tree.remove(name)
            else:
                self._tree.set(name, row.version, _digest(row))

    def _read(self) -> None:
        stored, link = self._file.read()
        self._rows = {
            name: Row(version=version, sealed=sealed) for name, (version, sealed) in stored.items()
        }
        self._tree = HashTree((name, row.version, _digest(row)) for name, row in self._rows.items())
        try:
            content = self._sealing.open_link(link, self._tree.root())
        except NotSealed:
            raise self._file.damaged("its link in the chain is not of these records") from None
        self._link = record_fields.from_map(
            Link, canonical.decode_map(content, "Link", MAX_LINK), "Link"
        )

    def _check_chain(self) -> None:
        root, anchored = self._tree.root(), self._anchor.read_chain()
        noted, writes = self._anchor.noted()
        match standing(previous=self._link.previous, root=root, anchored=anchored):
            case Standing.NEWEST:
                self._chain = anchored
            case Standing.ONE_STEP_AHEAD:
                self._chain, self.unanchored = anchored, True
                self.anchor()
            case Standing.FOREIGN:
                raise _not_newest(self.number, noted, anchored)
        self._link = replace(self._link, anchors=max(self._link.anchors, writes))


def _digest(row: Row) -> bytes:
    return hashlib.sha256(row.sealed).digest()


def _not_newest(number: int, noted: int, anchored: bytes) -> Refused:
    known = (
        f"knows version {noted} or a later one"
        if noted > number
        else f"knew version {noted} when it was told last, and another one since"
    )
    return Refused(
        "TDM-ROLLBACK-STORE",
        f"the Manager's store is not the newest: it is version {number}, and the pTPM {known}, "
        f"which has the anchor {anchored.hex()[:16]}…; this is an older copy, a fork, or another "
        "host's",
        hint="put back the newest store; an old one would bring old vTPM states back",
    )
