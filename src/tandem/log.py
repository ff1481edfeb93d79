"""Structured events: one JSON object a line on standard error, names as nouns and participles.

Secrets have types whose `repr` hides them, and bytes from a guest enter through `errors.excerpt`
alone, so that nobody outside writes a host's log.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

Listener = Callable[[Mapping[str, object]], None]
Sink = Callable[[Mapping[str, object]], bool]
_listeners: Final[list[Listener]] = []  # of this process, for one process has one log
_sinks: Final[list[Sink]] = []


class Log:
    """Events of one process."""

    def __init__(self, process: str, stream: TextIO) -> None:
        self._process = process
        self._stream = stream

    def info(self, event: str, **fields: object) -> None:
        """Write what happened in the course of things."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write what somebody should look at."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write what ends this process."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "level": level, "process": self._process, "event": event} | fields
        for listener in _listeners:
            listener(record)
        if any(sink(record) for sink in _sinks):
            return
        try:
            self._stream.write(as_line(record) + "\n")
            self._stream.flush()
        except OSError:
            return  # a full disk silences a log; it must not end a service and its guests


def get_logger(process: str) -> Log:
    """Give the log of a process."""
    return Log(process, sys.stderr)


def listen(listener: Listener) -> None:
    """Have every event of this process told to `listener`, too, as the record that is written."""
    _listeners.append(listener)


def write_to(sink: Sink) -> None:
    """Have each event of this process written by `sink` instead, where it says that it did."""
    _sinks.append(sink)


def as_line(record: Mapping[str, object]) -> str:
    """Write an event as the log does: one line of JSON."""
    return as_json(record)


def as_json(value: object) -> str:
    """Write any value that an event may have; bytes in hexadecimal."""
    return json.dumps(value, default=_shown)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
