"""Each group's share of state commits: the answers beyond its rate wait, and nobody else's do.

A vTPM waits for that answer before it answers its guest, so a group that writes too fast slows
itself down.  A burst of one second's worth goes through at once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

BURST: Final = 1.0  # seconds' worth


class CommitLimits:
    """What waits for its turn; times are `time.monotonic`'s."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}  # when a group's rate is used up to
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def take(self, group: str, most: int, now: float) -> float:
        """Take one commit of `most` a second; give when it may happen."""
        reached = max(self._next.get(group, now), now)
        self._next[group] = reached + 1 / most
        return max(now, reached - BURST + 1 / most)

    def wait(self, until: float, now: float, do: Callable[[], None]) -> None:
        """Do something when its time comes, at once where that is past."""
        if until <= now:
            do()
            return
        heapq.heappush(self._waiting, (until, next(self._numbers), do))

    def due(self, now: float) -> float | None:
        """Give when `run` has something to do."""
        return self._waiting[0][0] if self._waiting else None

    def run(self, now: float) -> None:
        """Do what is due."""
        while self._waiting and self._waiting[0][0] <= now:
            heapq.heappop(self._waiting)[2]()
