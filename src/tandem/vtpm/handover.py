"""One thing that one thread hands to another, once.

`threading` and `queue` would do, but the first of them makes each fork of the zygote dirty half a
megabyte, in every vTPM.
"""

from __future__ import annotations

import _thread
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
FOREVER: Final = -1.0


class Handover(Generic[Item]):
    """Waits for its item; only the first one given counts, and one thread alone may give."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._empty = _thread.allocate_lock()  # held as long as nothing was given
        self._empty.acquire()

    @property
    def done(self) -> bool:
        """Whether the item was given."""
        return bool(self._items)

    def give(self, item: Item) -> None:
        """Give the item."""
        if not self._items:
            self._items.append(item)
            self._empty.release()

    def wait(self, seconds: float = FOREVER) -> bool:
        """Wait for the item; tell whether it came in time."""
        if not self._empty.acquire(timeout=seconds):
            return False
        self._empty.release()
        return True

    def take(self) -> Item:
        """Wait for the item, and give it."""
        self.wait()
        return self._items[0]
