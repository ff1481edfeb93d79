"""What the broker waits for: epoll(7) itself, for `selectors` costs more than reading a command."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

React = Callable[[bool, bool], None]  # readable, or ended; writable
READ: Final = select.EPOLLIN
READ_AND_WRITE: Final = select.EPOLLIN | select.EPOLLOUT


class Watch:
    """Sockets, and what to do about each that is ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._reactions: dict[int, React] = {}

    def add(self, sock: socket.socket, react: React) -> None:
        """Have `react` called whenever something can be read, or the other side has ended."""
        self._epoll.register(sock, READ)
        self._reactions[sock.fileno()] = react

    def also_writable(self, sock: socket.socket, wanted: bool) -> None:
        """Have it called when something can be written, too; or no more."""
        self._epoll.modify(sock, READ_AND_WRITE if wanted else READ)

    def remove(self, sock: socket.socket) -> None:
        """Forget a socket, before it is closed."""
        self._epoll.unregister(sock)
        del self._reactions[sock.fileno()]

    def take(self, seconds: float | None) -> None:
        """Wait for whatever is ready, `seconds` at most, and react to it."""
        for descriptor, events in self._epoll.poll(seconds):
            react = self._reactions.get(descriptor)
            if react is not None:  # None: removed by an earlier reaction
                react(bool(events & ~select.EPOLLOUT), bool(events & select.EPOLLOUT))

    def close(self) -> None:
        """Let go of the descriptor."""
        self._epoll.close()
