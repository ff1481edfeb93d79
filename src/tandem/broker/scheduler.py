"""Whose command is next: one of each client in turn, so that nobody waits for a busy one."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from tandem.broker.connection import Connection


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    connection: Connection
    command: bytes
    answer: Callable[[bytes], None]


class Scheduler:
    """Commands that wait, by client; no thread and no clock of its own."""

    def __init__(self) -> None:
        self._clients: OrderedDict[int, deque[_Waiting]] = OrderedDict()

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._clients

    def submit(
        self, connection: Connection, command: bytes, answer: Callable[[bytes], None]
    ) -> None:
        """Let a command wait for its turn; `answer` is called with the response, from `step`."""
        waiting = _Waiting(connection=connection, command=command, answer=answer)
        self._clients.setdefault(connection.client.uid, deque()).append(waiting)

    def withdraw(self, connection: Connection) -> None:
        """Forget what waits for a connection that is gone."""
        uid = connection.client.uid
        kept = [each for each in self._clients.get(uid, ()) if each.connection is not connection]
        self._clients[uid] = deque(kept)
        if not kept:
            del self._clients[uid]

    def step(self) -> bool:
        """Run one command, that of the client whose turn it is; False where none may run now."""
        for uid, queue in self._clients.items():
            for waiting in queue:
                if waiting.connection.waits(waiting.command) <= 0:
                    self._take(uid, waiting)
                    waiting.answer(waiting.connection.execute(waiting.command))
                    return True
        return False

    def delay(self) -> float | None:
        """Give the seconds until something that is held back may run; None where nothing waits."""
        return min(
            (
                each.connection.waits(each.command)
                for queue in self._clients.values()
                for each in queue
            ),
            default=None,
        )

    def _take(self, uid: int, waiting: _Waiting) -> None:
        queue = self._clients.pop(uid)
        queue.remove(waiting)
        if queue:
            self._clients[uid] = queue  # behind all others
