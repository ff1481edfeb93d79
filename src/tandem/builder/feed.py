"""Feed: what happens to pairs, for whoever watches; the newest of the builder's own log events.

An event is the very record that the log has: one vocabulary for `tandem events`, for the log file
and for the journal.  A watcher asks for what came after the last number that it saw, so that a slow
one costs nothing and learns how many events it missed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tandem.log import as_line

KEPT: Final = 1000
PAGE: Final = 100  # events in one answer
SUBJECTS: Final = ("pair.", "guest.", "vtpm.")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The oldest events after a number, each a line of JSON."""

    lines: tuple[str, ...]
    last: int  # the number of the last of them
    missed: int  # that came before these, after that number, and are not kept any more
    more: bool  # others are there that did not fit


class Feed:
    """The newest events of one builder's life, numbered from 1."""

    def __init__(self, kept: int = KEPT) -> None:
        self._lines: deque[str] = deque(maxlen=kept)
        self._newest = 0
        self._changed = asyncio.Event()

    def take(self, record: Mapping[str, object]) -> None:
        """Keep an event of the log, if it is about a pair."""
        if not str(record["event"]).startswith(SUBJECTS):
            return
        self._newest += 1
        self._lines.append(as_line({"number": self._newest, **record}))
        self._changed.set()
        self._changed = asyncio.Event()  # those who wait have the one that is set

    def after(self, number: int) -> Page:
        """Give what came after event `number`; a number of another builder's life counts as 0."""
        seen = number if number <= self._newest else 0
        kept = min(self._newest - seen, len(self._lines))
        start = len(self._lines) - kept
        lines = tuple(itertools.islice(self._lines, start, start + PAGE))
        return Page(
            lines=lines,
            last=self._newest - kept + len(lines),
            missed=self._newest - seen - kept,
            more=kept > PAGE,
        )

    async def beyond(self, number: int) -> Page:
        """Wait until something came after event `number`, and give it."""
        while self._newest == number:
            await self._changed.wait()
        return self.after(number)
