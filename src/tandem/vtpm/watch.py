"""What can end a vTPM or ask something of it, watched in one place by its control thread."""

from __future__ import annotations

import select
from enum import Enum, auto
from typing import Final


class Source(Enum):
    """Who has something to say, in the order in which it is heard."""

    GUEST = auto()  # the hypervisor's pidfd: the process has ended
    COMMANDS = auto()  # the data thread has ended
    STATUS = auto()  # the builder asks, or is gone
    DOOR = auto()  # a new builder has come
    CONTROL = auto()  # the hypervisor asks, or is gone


ENDED: Final = select.POLLIN | select.POLLHUP | select.POLLERR


class Watch:
    """Waits for any of the descriptors it was given; a guest's pidfd comes later."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._sources: dict[int, Source] = {}

    def add(self, source: Source, descriptor: int) -> None:
        """Watch `descriptor` from now on."""
        self._poll.register(descriptor, ENDED)
        self._sources[descriptor] = source

    def remove(self, descriptor: int) -> None:
        """Watch it no longer."""
        self._poll.unregister(descriptor)
        del self._sources[descriptor]

    def wait(self) -> list[Source]:
        """Wait until something happens, and give whose it is."""
        ready = {self._sources[descriptor] for descriptor, _ in self._poll.poll()}
        return [source for source in Source if source in ready]
