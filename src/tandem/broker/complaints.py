"""What the broker logs of its clients: each thing once a minute for each user, then a count.

Whoever may connect could otherwise fill the host's disk with lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tandem.log import Log

EVERY_SECONDS: Final = 60.0
MOST_KEPT: Final = 256  # pairs of event and user


@dataclass
class Told:
    """When something was logged last, and how often it came again since."""

    at: float
    since: int = 0


class Complaints:
    """A log that repeats itself seldom."""

    def __init__(self, log: Log, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._told: dict[tuple[str, int | None], Told] = {}

    def warn(self, event: str, *, uid: int | None, **fields: object) -> None:
        """Log a warning, or count it where the same was logged just now."""
        key, now = (event, uid), self._now()
        told = self._told.get(key)
        if told is not None and now - told.at < EVERY_SECONDS:
            told.since += 1
            return
        again = {"again": told.since} if told is not None and told.since else {}
        if len(self._told) >= MOST_KEPT:
            self._told.clear()
        self._told[key] = Told(now)
        self._log.warning(event, uid=uid, **again, **fields)
