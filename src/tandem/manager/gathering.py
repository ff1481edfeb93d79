"""When those who wait are served together: at once, or after those who ask again.  Pure.

Serving costs the same for one as for many, so whoever asks again right after an answer is worth a
short wait: a tenth of what serving takes, counted from the last answer, and never longer than until
all of them are there.  A lone asker waits for nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Final

SHARE: Final = 0.1  # of the time that serving took
WAIT_MOST: Final = 0.1  # seconds, however slow it was


class Gathering:
    """Who was served last, and is expected again; times are seconds of any one clock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._expected: frozenset[Hashable] = frozenset()
        self._until = 0.0
        self._lone: frozenset[Hashable] = frozenset()  # just served; is anybody there already?

    def due(self, waiting: Collection[Hashable], now: float) -> float | None:
        """Give when to serve those who wait, or to `look`; None while there is nobody."""
        if self._lone:
            return now
        if not waiting:
            return None
        if len(waiting) >= self._most or self._expected <= set(waiting):
            return now
        return max(now, self._until)

    def look(self, waiting: Collection[Hashable]) -> None:
        """See who came while a lone one was served: with company, it is expected again."""
        if self._lone and waiting:
            self._expected = self._lone
        self._lone = frozenset()

    def served(self, members: Collection[Hashable], now: float, took: float) -> None:
        """Note who was served just now, and how long that took."""
        several = len(members) > 1
        self._expected = frozenset(members) if several else frozenset()
        self._lone = frozenset() if several else frozenset(members)
        self._until = now + min(SHARE * took, WAIT_MOST)

    def left(self, member: Hashable) -> None:
        """Expect somebody no more."""
        self._expected -= {member}
        self._lone -= {member}
