"""Pure: which of the TPM's few slots hold what, and who leaves when one is needed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Slots(Generic[Item]):
    """What is loaded, the one not used for longest first."""

    def __init__(self) -> None:
        self._loaded: dict[Item, None] = {}

    def __contains__(self, item: Item) -> bool:
        return item in self._loaded

    def __len__(self) -> int:
        return len(self._loaded)

    def use(self, item: Item) -> None:
        """Note that an item is loaded, and used now."""
        self._loaded.pop(item, None)
        self._loaded[item] = None

    def remove(self, item: Item) -> None:
        """Note that an item is no longer loaded; it need not have been."""
        self._loaded.pop(item, None)

    def leaving(self, wanted: Collection[Item], most: int) -> list[Item]:
        """Give who has to leave so that `wanted` and whatever stays are `most` at the end.

        Nobody wanted leaves, also where `most` is less than that.
        """
        stay = [item for item in self._loaded if item not in wanted]
        return stay[: max(0, len(stay) + len(wanted) - most)]
