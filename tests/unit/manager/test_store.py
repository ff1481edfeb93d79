"""The store: what was acknowledged is found again, and nothing older is ever opened."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from tandem.errors import HostError, Refused, TandemError
from tandem.manager.store import NotAnchored, NotWritten, Store
from tandem.values import Secret
from tests.unit.manager.software_host import MemoryAnchor

MASTER = Secret(b"k" * 32)
OTHER = Secret(b"o" * 32)


class Disk:
    """A store's file, its pTPM, and copies of the file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.sqlite"
        self.anchor = MemoryAnchor()
        self.copies = directory

    def create(self) -> Store:
        return Store.create(self.path, MASTER, self.anchor)

    def load(self, master: Secret = MASTER) -> Store:
        return Store.load(self.path, master, self.anchor)

    def write(self, **contents: str) -> None:
        """Commit with a store that is opened and closed for it."""
        store = self.load() if self.path.exists() else self.create()
        for name, content in contents.items():
            store.stage(name, content.encode())
        store.commit()
        store.close()

    def keep(self, name: str) -> None:
        shutil.copy(self.path, self.copies / name)

    def put_back(self, name: str) -> None:
        shutil.copy(self.copies / name, self.path)

    def code(self, master: Secret = MASTER) -> str:
        """Give the code that opening the store ends with."""
        with pytest.raises(TandemError) as raised:
            self.load(master)
        return raised.value.code


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_what_was_committed_is_found_again(disk: Disk) -> None:
    # Given records, one of them written twice
    disk.write(a="1", b="2")
    disk.write(a="3")
    # When the store is opened anew
    store = disk.load()
    # Then the last word on each is there
    assert [store.get(name) for name in ("a", "b", "c")] == [b"3", b"2", None]
    assert list(store.names("a")) == ["a"]


def test_many_commits_of_one_start_are_one_chain(disk: Disk) -> None:
    # Given a store that is committed several times without being opened anew
    store = disk.create()
    for number in range(5):
        store.stage("a", b"%d" % number)
        store.commit()
    store.close()
    # When it is opened
    # Then it stands where the pTPM does, and holds the last
    assert disk.load().get("a") == b"4"


def test_changes_that_wait_cost_one_extend(disk: Disk) -> None:
    # Given a store with a hundred changes staged
    store = disk.create()
    for number in range(100):
        store.stage(f"vtpm/{number}", b"state")
    # When they are committed
    store.commit()
    # Then the pTPM was extended once
    assert (disk.anchor.extends, store.commits, store.dirty) == (1, 1, False)


def test_no_content_is_on_disk_in_clear(disk: Disk) -> None:
    # Given a secret in the store
    # When it is committed
    disk.write(a="a very secret content")
    # Then the file does not show it
    assert b"very secret" not in disk.path.read_bytes()


def test_a_commit_that_the_ptpm_did_not_hear_of_rolls_forward(disk: Disk) -> None:
    # Given a crash between the durable commit and the extend
    disk.write(a="1")
    store = disk.load()
    store.stage("a", b"2")
    disk.anchor.broken = True
    with pytest.raises(NotAnchored):
        store.commit()
    store.close()
    disk.anchor.broken = False
    # When the store is opened anew, twice
    for _ in range(2):
        store = disk.load()
        store.close()
    # Then it holds the commit, and the pTPM was told once
    assert (store.get("a"), disk.anchor.extends) == (b"2", 2)


def test_nothing_follows_a_commit_that_the_ptpm_did_not_confirm(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pTPM that did extend, and says that it did not
    disk.write(a="1")
    store = disk.load()
    extend = disk.anchor.extend_chain

    def extend_and_fail(data: bytes) -> None:
        extend(data)
        raise HostError("TDM-PTPM-BUSY", "the pTPM is busy", hint="ask again")

    with monkeypatch.context() as failing:
        failing.setattr(disk.anchor, "extend_chain", extend_and_fail)
        store.stage("a", b"2")
        with pytest.raises(NotAnchored):
            store.commit()
    # When another commit is made, and the anchor is asked for
    store.stage("a", b"3")
    with pytest.raises(NotAnchored):
        store.commit()
    with pytest.raises(NotAnchored):
        store.anchor()
    store.close()
    # Then neither is done: it would stand on a value that the pTPM may not hold any more
    assert disk.load().get("a") == b"2"


def test_an_older_copy_is_refused(disk: Disk) -> None:
    # Given a copy from before the newest commit
    disk.write(a="1")
    disk.keep("old")
    disk.write(a="2")
    # When it is put back
    disk.put_back("old")
    # Then it is refused by name
    assert disk.code() == "TDM-ROLLBACK-STORE"


def test_a_fork_is_refused(disk: Disk) -> None:
    # Given a commit that was made durable, and another made from the same predecessor
    disk.write(a="1")
    disk.keep("base")
    disk.anchor.broken = True
    store = disk.load()
    store.stage("a", b"the fork")
    with pytest.raises(NotAnchored):
        store.commit()
    store.close()
    disk.keep("fork")
    disk.anchor.broken = False
    disk.put_back("base")
    disk.write(a="2")
    # When the first comes back
    disk.put_back("fork")
    # Then it is refused
    assert disk.code() == "TDM-ROLLBACK-STORE"


def test_old_records_cannot_be_given_a_new_place_in_the_chain(disk: Disk) -> None:
    # Given old records, and the link of the newest store, which names the anchored predecessor
    disk.write(a="1")
    disk.keep("old")
    disk.write(a="2")
    disk.anchor.broken = True  # the newest link then holds what the pTPM holds
    store = disk.load()
    store.stage("b", b"3")
    with pytest.raises(NotAnchored):
        store.commit()
    store.close()
    disk.anchor.broken = False
    with sqlite3.connect(disk.path) as newest:
        link = newest.execute("SELECT link FROM chain").fetchone()
    newest.close()
    # When the old records are stored with that link
    disk.put_back("old")
    with sqlite3.connect(disk.path) as old:
        old.execute("UPDATE chain SET link = ?", link)
    old.close()
    # Then the link does not fit them, and the pTPM is not told anything
    extends = disk.anchor.extends
    assert disk.code() == "TDM-STORE-DAMAGED"
    assert disk.anchor.extends == extends


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE record SET sealed = zeroblob(60) WHERE id = 'a'",
        "UPDATE record SET version = 9 WHERE id = 'a'",
        "UPDATE record SET version = -1 WHERE id = 'a'",
        "UPDATE record SET id = 'c' WHERE id = 'a'",
        "DELETE FROM record WHERE id = 'a'",
        "UPDATE chain SET link = zeroblob(3)",
        "DELETE FROM chain",
        "DROP TABLE record",
        "PRAGMA user_version = 9",
    ],
)
def test_a_store_that_was_changed_is_damaged(disk: Disk, change: str) -> None:
    # Given a store
    disk.write(a="1", b="2")
    # When somebody without the master key changes it
    with sqlite3.connect(disk.path) as connection:
        connection.execute(change)
    connection.close()
    # Then it is not opened, whatever the change
    assert disk.code() == "TDM-STORE-DAMAGED"


@pytest.mark.parametrize("content", [b"", b"no database", bytes(5000)])
def test_a_file_that_is_no_store_is_damaged(disk: Disk, content: bytes) -> None:
    # Given something else in the store's place
    disk.path.write_bytes(content)
    # When it is opened
    # Then it is refused by name
    assert disk.code() == "TDM-STORE-DAMAGED"


def test_another_hosts_store_is_not_opened(disk: Disk) -> None:
    # Given a store of one master key
    disk.write(a="1")
    # When it is opened with another
    # Then it is refused by name
    assert disk.code(OTHER) == "TDM-STORE-DAMAGED"


def test_a_store_is_made_once(disk: Disk) -> None:
    # Given no store, then one
    assert disk.code() == "TDM-STORE-MISSING"
    disk.write(a="1")
    # When it is made again
    with pytest.raises(HostError) as raised:
        disk.create()
    # Then that is refused
    assert raised.value.code == "TDM-STORE-EXISTS"


def test_a_full_disk_changes_nothing_and_passes(disk: Disk) -> None:
    # Given a disk that takes no page more
    disk.write(a="1")
    store = disk.load()
    (pages,) = store._file.connection.execute("PRAGMA page_count").fetchone()
    store._file.connection.execute(f"PRAGMA max_page_count = {pages}")
    store.stage("b", bytes(100_000))
    # When a commit does not fit, and later a smaller one does
    with pytest.raises(NotWritten) as raised:
        store.commit()
    store.stage("a", b"2")
    store.commit()
    store.close()
    # Then the first is reported and left no trace, and the second is the newest state
    assert raised.value.code == "TDM-STORE-NOT-WRITTEN"
    reopened = disk.load()
    assert (reopened.get("a"), reopened.get("b")) == (b"2", None)


def test_a_staged_change_is_seen_before_its_commit(disk: Disk) -> None:
    # Given a record
    disk.write(a="1")
    store = disk.load()
    # When a change of it waits
    store.stage("a", b"2")
    # Then it is what is read
    assert (store.get("a"), store.dirty) == (b"2", True)


def test_a_foreign_store_is_never_rolled_forward(disk: Disk) -> None:
    # Given a store two commits behind
    disk.write(a="1")
    disk.keep("old")
    disk.write(a="2")
    disk.write(a="3")
    extends = disk.anchor.extends
    disk.put_back("old")
    # When it is opened
    with pytest.raises(Refused):
        disk.load()
    # Then the pTPM stays as it was
    assert disk.anchor.extends == extends


def test_a_record_that_was_removed_is_gone_for_good(disk: Disk) -> None:
    # Given a record, and a copy of the store
    disk.write(a="1", b="2")
    disk.keep("old")
    # When it is removed
    store = disk.load()
    store.remove("a")
    assert store.get("a") is None
    store.commit()
    store.close()
    # Then it is not found again, and no copy brings it back
    store = disk.load()
    assert (store.get("a"), list(store.names(""))) == (None, ["b"])
    store.close()
    disk.put_back("old")
    assert disk.code() == "TDM-ROLLBACK-STORE"


def test_a_groups_records_are_closed_without_its_key(disk: Disk) -> None:
    # Given a record of a group
    store = disk.create()
    store.unlock("red", OTHER)
    store.stage("vtpm/red/web", b"red's")
    store.stage("host", b"everybody's")
    store.commit()
    store.close()
    # When the store is opened with the master key alone, with another group's key, and with its own
    store = disk.load()
    with pytest.raises(Refused) as closed:
        store.get("vtpm/red/web")
    with pytest.raises(HostError) as wrong:
        store.unlock("red", MASTER)
    with pytest.raises(Refused):
        store.stage("vtpm/red/web", b"mine")
    assert store.get("host") == b"everybody's"
    store.unlock("red", OTHER)
    # Then only its own opens it, and the rest of the store is open to all three
    assert (closed.value.code, wrong.value.code) == ("TDM-STORE-GROUP-LOCKED", "TDM-STORE-DAMAGED")
    assert store.get("vtpm/red/web") == b"red's"


def test_commits_of_a_window_are_anchored_together(disk: Disk) -> None:
    # Given three commits that the pTPM is not told of, and a copy after the first
    disk.write(a="0")
    store = disk.load()
    for number in range(3):
        store.stage("a", b"%d" % number)
        store.commit(anchor=False)
        if number == 0:
            shutil.copy(disk.path, disk.copies / "first")
            shutil.copy(f"{disk.path}-wal", disk.copies / "first-wal")
    extends = disk.anchor.extends
    # When they are anchored, twice
    store.anchor()
    store.anchor()
    store.close()
    # Then that cost one extend, and the copy is an older store
    assert disk.anchor.extends == extends + 1
    assert disk.load().get("a") == b"2"
    disk.put_back("first")
    shutil.copy(disk.copies / "first-wal", f"{disk.path}-wal")
    assert disk.code() == "TDM-ROLLBACK-STORE"


def test_a_copy_that_is_adopted_is_the_newest_from_its_next_commit_on(disk: Disk) -> None:
    # Given an older copy in the store's place, as a restore puts it there
    disk.write(a="1")
    disk.keep("backup")
    disk.write(a="2")
    disk.keep("newest")
    disk.put_back("backup")
    # When it is adopted
    store = Store.adopt(disk.path, MASTER, disk.anchor)
    store.commit()
    store.close()
    # Then it opens, and what was the newest does not
    assert disk.load().get("a") == b"1"
    disk.put_back("newest")
    assert disk.code() == "TDM-ROLLBACK-STORE"


def test_the_refusal_of_an_older_store_names_what_the_ptpm_knows(disk: Disk) -> None:
    # Given a store whose version the pTPM was told, and a copy from before
    disk.write(a="1")
    disk.keep("old")
    disk.write(a="2")
    store = disk.load()
    store.note_version()
    store.close()
    # When the copy is opened
    disk.put_back("old")
    with pytest.raises(Refused) as raised:
        disk.load()
    # Then both versions are named
    assert "it is version 1, and the pTPM knows version 2 or a later one" in raised.value.problem


def test_writes_of_the_anchor_are_counted_even_where_no_commit_followed(disk: Disk) -> None:
    # Given a store whose version was noted at a start and at an end, as the Manager does
    disk.write(a="1")
    for number in range(3):
        store = disk.load()
        store.note_version()
        if number != 1:
            store.stage("a", b"%d" % number)
            store.commit()
        store.note_version()
        store.close()
    # When it is opened anew
    # Then every extend is counted, and every note of a version that was not noted already
    assert disk.anchor.extends == 3
    assert disk.load().anchors == 3 + 3


def test_ten_thousand_records_open_within_two_seconds(disk: Disk) -> None:
    # Given ten thousand records of the size of a vTPM's
    store = disk.create()
    store.unlock("red", OTHER)
    for number in range(10_000):
        store.stage(f"vtpm/red/{number}", bytes(600))
    store.commit()
    store.close()
    # When the store is opened
    begun = time.monotonic()
    store = disk.load()
    store.unlock("red", OTHER)
    taken = time.monotonic() - begun
    # Then it takes a fraction of what a start may take
    assert store.get("vtpm/red/9999") == bytes(600)
    assert taken < 2
