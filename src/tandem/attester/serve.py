"""Answer requests that come over virtio-serial: a JSON line in, a JSON line out.

An empty line is passed over, so a host that finds the port in an unknown state sends one first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Protocol

from .failure import AttesterError
from .request import MAX_LINE, Request, parse_request

Collector = Callable[[Request], "dict[str, str]"]


class Stream(Protocol):
    """A connection that comes and goes; `receive` gives no bytes when nobody is there."""

    def receive(self) -> bytes:
        """Wait for bytes."""

    def send(self, data: bytes) -> None:
        """Send all of them."""


def serve(stream: Stream, collector: Collector) -> None:
    """Answer every line, for ever."""
    lines = LineReader()
    while True:
        for line in lines.feed(stream.receive()):
            stream.send(answer(line, collector))


def answer(line: bytes, collector: Collector) -> bytes:
    """Give the line that answers a line: evidence, or what is wrong."""
    try:
        record: object = collector(parse_request(line))
    except AttesterError as error:
        record = error.as_record()
    return json.dumps(record, sort_keys=True).encode("ascii") + b"\n"


class LineReader:
    """Parts a stream into lines and holds at most one, cut where it grows too long."""

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what came; give each line that it completes, none empty."""
        if not data:
            self._begun = b""  # whoever began a line has gone
            return
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = (self._begun + end).strip()
            self._begun = b""
            if line:
                yield line
        self._begun = (self._begun + rest)[: MAX_LINE + 1]
