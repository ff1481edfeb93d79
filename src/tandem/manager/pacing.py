"""How often the pTPM's NV memory is written, and how long it bears that.  Pure.

Real TPMs wear out, some after 100,000 writes of their NV memory.  So extends of the chain have a
ceiling in any one second, their number is held against a budget for the TPM's whole life, and in
window mode commits may wait for their extend, up to the window's length.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

CEILING: Final = 20  # extends in any one second
WINDOW_MOST: Final = 3600  # seconds
SECOND: Final = 1.0
DAY: Final = 24 * 3600
LIFE: Final = 5 * 365 * DAY  # seconds for which the budget is meant to last
HEADSTART: Final = 0.01  # of the budget: a new host may write more than its age allows


class Pacing:
    """When the next extend may happen, and when it must; times are seconds of any one clock."""

    def __init__(self, *, window: float, ceiling: int = CEILING) -> None:
        self._window = window
        self._last: deque[float] = deque(maxlen=ceiling)
        self._open_since: float | None = None

    @property
    def strict(self) -> bool:
        """Whether each commit is anchored before it is acknowledged."""
        return not self._window

    def allowed(self, now: float) -> float:
        """Give when the next extend may happen: not more than the ceiling in any second."""
        if len(self._last) < (self._last.maxlen or 0):
            return now
        return max(now, self._last[0] + SECOND)

    def extended(self, now: float) -> None:
        """Note an extend: nothing waits for one any more."""
        self._last.append(now)
        self._open_since = None

    def left_open(self, now: float) -> None:
        """Note a commit that waits for its extend."""
        if self._open_since is None:
            self._open_since = now

    def anchor_due(self, now: float) -> float | None:
        """Give when the commits that wait must be anchored; None where none waits."""
        if self._open_since is None:
            return None
        return max(self._open_since + self._window, self.allowed(now))


@dataclass(frozen=True, kw_only=True)
class Wear:
    """How far the pTPM's NV memory is used up."""

    writes: int
    budget: int
    a_day: int  # writes, on average since the store was made
    days_left: int  # at that rate
    over_pace: bool  # more than the budget for its life allows by now


def wear(*, writes: int, budget: int, age: float) -> Wear:
    """Hold `writes` in `age` seconds against a budget that is to last for `LIFE`."""
    a_day = writes * DAY / max(age, DAY)
    left = max(0, budget - writes)
    return Wear(
        writes=writes,
        budget=budget,
        a_day=round(a_day),
        days_left=int(left / a_day) if writes else LIFE // DAY,
        over_pace=writes > budget * min(1.0, HEADSTART + age / LIFE),
    )
