"""Pure: what a TPM has only once, held by one connection or client at a time, never for long.

A TPM keeps one row of commitments (TPM2_Commit, TPM2_EC_Ephemeral; Part 1, C.2.2): whoever commits
moves it on for everybody.  An audit session is exclusive as long as no other command comes between
(Part 1, 19.7.2).  So others wait meanwhile, a moment after the holder's last such command at most.
After each hold nobody holds it for as long as a hold may last: half of the time is everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IDLE_SECONDS: Final = 0.25  # since the holder's last command that needs it
LONGEST_SECONDS: Final = 1.0  # in a row; and as long a rest before the next hold
COMMITMENTS_MOST: Final = 64  # remembered; a TPM keeps as many bits (Part 1, C.2.2), or fewer


@dataclass(kw_only=True)
class _Hold:
    holder: object
    since: float
    until: float


class Turn:
    """One thing that one holder at a time has: a connection, or a user."""

    def __init__(self) -> None:
        self._hold: _Hold | None = None
        self._rests_until = 0.0

    def take(self, holder: object, now: float) -> None:
        """Hold it, or go on to; not during the rest."""
        hold = self._current(now)
        if hold is None:
            if self._rests_until <= now:
                self._hold = _Hold(holder=holder, since=now, until=now + IDLE_SECONDS)
        elif hold.holder == holder:
            hold.until = min(now + IDLE_SECONDS, hold.since + LONGEST_SECONDS)

    def let_go(self, holder: object, now: float) -> None:
        """End a hold of this one's; the rest is as long as the hold was."""
        hold = self._current(now)
        if hold is not None and hold.holder == holder:
            self._rests_until = 2 * now - hold.since
            self._hold = None

    def waits(self, asker: object, now: float) -> float:
        """Give the seconds that somebody has to wait for another; 0 where there is no need."""
        hold = self._current(now)
        return 0.0 if hold is None or hold.holder == asker else hold.until - now

    def _current(self, now: float) -> _Hold | None:
        if self._hold is not None and self._hold.until <= now:
            self._rests_until = self._hold.until + LONGEST_SECONDS
            self._hold = None
        return self._hold


class Commitments:
    """Whose each open commitment is, by the TPM's counter."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # users by counter

    def add(self, counter: int, uid: int) -> None:
        """Note a new one."""
        self._open.pop(counter, None)
        self._open[counter] = uid
        if len(self._open) > COMMITMENTS_MOST:
            del self._open[next(iter(self._open))]

    def is_of(self, counter: int, uid: int) -> bool:
        """Whether a user made it and did not use it yet."""
        return self._open.get(counter) == uid

    def use(self, counter: int) -> None:
        """Note that it was signed with: it is gone."""
        self._open.pop(counter, None)

    def has(self, uid: int) -> bool:
        """Whether a user has any open."""
        return uid in self._open.values()
