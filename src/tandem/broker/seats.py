"""Seats at the TPM: one core connection each, and the commands that wait for it.

A stream that stays has a seat of its own, and what it left there goes with it when it ends.  By
swtpm's protocol libtss2 makes a connection for each command, and nothing says which of them belong
together: there a user's programs share one seat, as openers of one device file would.  It is given
up when nobody has used it for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from tandem.broker.broker import Broker
from tandem.broker.client import Client
from tandem.broker.connection import Connection
from tandem.broker.scheduler import Scheduler

IDLE_SECONDS: Final = 60.0
Answer = Callable[[bytes], None]


class Seat:
    """One connection of the core; at most one of its commands is with the scheduler."""

    def __init__(self, connection: Connection, scheduler: Scheduler) -> None:
        self._connection = connection
        self._scheduler = scheduler
        self._waiting: deque[tuple[object, bytes, Answer]] = deque()
        self._busy = False

    @property
    def in_use(self) -> bool:
        """Tell whether a command is under way."""
        return self._busy

    def submit(self, asker: object, command: bytes, answer: Answer) -> None:
        """Have a command of `asker` run in turn; `answer` gets its response."""
        self._waiting.append((asker, command, answer))
        self._next()

    def withdraw(self, asker: object) -> None:
        """Forget what waits for one who left a seat that others have too."""
        self._waiting = deque(each for each in self._waiting if each[0] is not asker)

    def close(self) -> None:
        """Give the seat up: nothing is answered any more, and what is left there is flushed."""
        self._waiting.clear()
        self._scheduler.withdraw(self._connection)
        self._connection.close()

    def _next(self) -> None:
        if self._busy or not self._waiting:
            return
        _, command, answer = self._waiting.popleft()
        self._busy = True

        def answered(response: bytes) -> None:
            self._busy = False
            answer(response)
            self._next()

        self._scheduler.submit(self._connection, command, answered)


class SharedSeats:
    """One seat for each user who comes by a connection for each command."""

    def __init__(self, broker: Broker, scheduler: Scheduler, now: Callable[[], float]) -> None:
        self._broker = broker
        self._scheduler = scheduler
        self._now = now
        self._seats: dict[Client, tuple[Seat, float]] = {}

    def take(self, client: Client) -> Seat:
        """Give the client's seat."""
        seat, _ = self._seats.get(client) or (self._new(client), 0.0)
        self._seats[client] = seat, self._now()
        return seat

    def expire(self) -> float | None:
        """Give up what nobody used; gives the seconds until the next one may be, None for never."""
        if not self._seats:
            return None
        until = self._now() - IDLE_SECONDS
        for client, (seat, used) in list(self._seats.items()):
            if used <= until and not seat.in_use:
                del self._seats[client]
                seat.close()
        return min((used - until for _, used in self._seats.values()), default=None)

    def _new(self, client: Client) -> Seat:
        return Seat(self._broker.connect(client), self._scheduler)
