"""How a service tells whoever started it that it takes requests, or why it never will.

It is a pipe: one byte for readiness, or the error as a JSON record, or its end where the service
died without a word.
"""

from __future__ import annotations

import json
import os
import select
from types import TracebackType
from typing import Final, Self

from tandem.errors import TandemError
from tandem.wire.messages import Failed

READY: Final = b"\1"
MAX_RECORD: Final = 4096  # PIPE_BUF: written and read whole


class Readiness:
    """The service's side; without a descriptor nobody waits and nothing is told."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, TandemError):
            self._tell(json.dumps(error.as_record()).encode("ascii")[:MAX_RECORD])

    def announce(self) -> None:
        """Tell that requests are taken from now on."""
        self._tell(READY)

    def _tell(self, word: bytes) -> None:
        """Tell once; who stopped waiting is not told."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.write(descriptor, word)
        except BrokenPipeError:
            return
        finally:
            os.close(descriptor)


def wait_until_ready(descriptor: int, seconds: float) -> bool:
    """Wait for the service: True once it is ready, False when it died or the time is over.

    What it reports instead of readiness is raised here.
    """
    poll = select.poll()  # select(2) takes no descriptor above 1,023
    poll.register(descriptor, select.POLLIN)
    word = os.read(descriptor, MAX_RECORD) if poll.poll(1000 * seconds) else b""
    if word in (READY, b""):
        return word == READY
    record = json.loads(word)
    fields = {name: record[name] for name in ("family", "code", "problem", "hint")}
    raise Failed(**fields).as_error()
