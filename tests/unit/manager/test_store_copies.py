"""A store under the next master key: the same records, another file, another anchor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.errors import TandemError
from tandem.manager.store import Store
from tandem.values import Secret
from tests.unit.manager.software_host import MemoryAnchor

OLD, NEW, RED = (Secret(letter * 32) for letter in (b"o", b"n", b"r"))


class Stores:
    """A store with the host's own records and a group's, and the anchors of two generations."""

    def __init__(self, directory: Path) -> None:
        self.old, self.new = directory / "old.sqlite", directory / "new.sqlite"
        self.anchor = MemoryAnchor()
        self.store = Store.create(self.old, OLD, self.anchor)
        self.store.unlock("red", RED)
        self.store.stage("host", b"own")
        self.store.stage("vtpm/red/web", b"red's")
        self.store.commit()

    def next_anchor(self) -> None:
        """Have the anchor be the next generation's, as `Ptpm.use_keys` does."""
        self.anchor.value = bytes(32)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


def code(act: Callable[[], object]) -> str:
    with pytest.raises(TandemError) as raised:
        act()
    return raised.value.code


def test_a_copy_is_the_newest_of_the_next_generation(stores: Stores) -> None:
    # Given a store
    number, anchors = stores.store.number, stores.store.anchors
    # When it is copied under the next master key
    stores.next_anchor()
    copy = stores.store.copied(stores.new, NEW)
    copy.close()
    # Then that opens with the next key alone, and goes on counting
    again = Store.load(stores.new, NEW, stores.anchor)
    assert again.get("host") == b"own"
    assert (again.number, again.anchors) == (number + 1, anchors + 1)
    assert code(lambda: Store.load(stores.new, OLD, stores.anchor)) == "TDM-STORE-DAMAGED"
    # And the former store is not the newest any more
    assert code(lambda: Store.load(stores.old, OLD, stores.anchor)) == "TDM-ROLLBACK-STORE"


def test_records_of_a_locked_group_are_taken_along_unread(stores: Stores) -> None:
    # Given a store whose group is locked
    stores.store.close()
    locked = Store.load(stores.old, OLD, stores.anchor)
    # When it is copied
    stores.next_anchor()
    copy = locked.copied(stores.new, NEW)
    # Then the group's key opens its records there
    copy.unlock("red", RED)
    assert copy.get("vtpm/red/web") == b"red's"


def test_a_store_goes_on_as_its_copy(stores: Stores) -> None:
    # Given a store that is in use, with a group unlocked
    stores.next_anchor()
    copy = stores.store.copied(stores.new, NEW)
    # When it goes on as its copy, and writes
    stores.store.go_on_as(copy)
    stores.store.stage("vtpm/red/web", b"red's newest")
    stores.store.stage("host", b"own newest")
    stores.store.commit()
    stores.store.close()
    # Then all of it is in the copy's file
    again = Store.load(stores.new, NEW, stores.anchor)
    again.unlock("red", RED)
    assert (again.get("vtpm/red/web"), again.get("host")) == (b"red's newest", b"own newest")


def test_a_copy_that_fails_leaves_the_store_as_it_was(stores: Stores) -> None:
    # Given a place that is taken
    stores.new.write_bytes(b"taken")
    # When the store is copied there
    # Then it is refused, and the store goes on
    assert code(lambda: stores.store.copied(stores.new, NEW)) == "TDM-STORE-EXISTS"
    stores.store.stage("host", b"newer")
    stores.store.commit()
    stores.store.close()
    assert Store.load(stores.old, OLD, stores.anchor).get("host") == b"newer"


def test_no_copy_is_made_in_the_middle_of_a_commit(stores: Stores) -> None:
    # Given changes that wait, and a commit that is not anchored
    stores.store.stage("host", b"waiting")
    # When a copy is to be made
    # Then that is a defect of the caller
    with pytest.raises(ValueError, match="between two commits"):
        stores.store.copied(stores.new, NEW)
    stores.store.commit(anchor=False)
    with pytest.raises(ValueError, match="between two commits"):
        stores.store.copied(stores.new, NEW)
