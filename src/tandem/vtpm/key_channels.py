"""Key channels that the builder hands over after a Manager was started again.

`threading` and `queue` would do, but see `handover`.
"""

from __future__ import annotations

import _thread
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyChannel:
    """A vTPM's end of a key channel, and the Manager's nonce for it."""

    sock: socket.socket
    nonce: bytes


class KeyChannels:
    """Holds the newest one until it is taken: an older one's Manager has ended, too."""

    def __init__(self) -> None:
        self._newest: list[KeyChannel] = []
        self._lock = _thread.allocate_lock()
        self._empty = _thread.allocate_lock()  # held as long as there is none
        self._empty.acquire()

    def give(self, channel: KeyChannel) -> None:
        """Have the newest one."""
        with self._lock:
            if self._newest:
                self._newest.pop().sock.close()
            else:
                self._empty.release()
            self._newest.append(channel)

    def take(self, seconds: float) -> KeyChannel | None:
        """Wait for one; None where none came in time."""
        if not self._empty.acquire(timeout=max(0.0, seconds)):
            return None
        with self._lock:
            return self._newest.pop()
