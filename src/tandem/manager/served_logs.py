"""The host's logs as the Manager gives them: whole or from an offset, while they may grow.

The firmware's event log is fixed since boot.  The kernel's IMA list grows with each file that it
measures, but what was in it stays: it is read on from where it ended, and only when somebody asks
for what is not here yet.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

from tandem.errors import HostError
from tandem.evidence.ima_log import MAX_IMA_LOG
from tandem.wire.manager_rpc import HostLogPage

PAGE: Final = 3000
BLOCK: Final = 1024 * 1024
Read = Callable[[int], bytes]  # gives some bytes from an offset on, none at the end


class ServedLog:
    """One log; `read` is asked for more of it at its present end."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._data = bytearray()
        self._digest = hashlib.sha256()

    def page(self, offset: int) -> HostLogPage:
        """Give a page from `offset` on; the digest is that of the first `total` bytes."""
        if offset >= len(self._data):
            self._read_on()
        return HostLogPage(
            total=len(self._data),
            digest=self._digest.digest(),
            data=bytes(self._data[offset : offset + PAGE]),
        )

    def _read_on(self) -> None:
        while more := self._read(len(self._data)):
            if len(self._data) + len(more) > MAX_IMA_LOG:
                raise HostError(
                    "TDM-HOST-LOG-TOO-LONG",
                    f"the host's log is longer than {MAX_IMA_LOG} bytes",
                    hint="have the kernel measure less (its IMA policy), and boot the host again",
                )
            self._data += more
            self._digest.update(more)


def fixed_log(log: bytes) -> ServedLog:
    """Serve a log that does not grow."""
    return ServedLog(lambda offset: log[offset:])


def growing_log(descriptor: int) -> ServedLog:
    """Serve what a descriptor gives, opened by root before this process gave root up."""
    return ServedLog(lambda offset: _read_at(descriptor, offset))


def _read_at(descriptor: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, BLOCK, offset)
    except OSError as error:
        raise HostError(
            "TDM-HOST-LOG-UNREADABLE",
            f"the kernel does not give its IMA list: {error.strerror}",
            hint="start the host's services again, as root",
        ) from error
