"""Structured events: one JSON object a line on standard error, names as nouns and participles.

Secrets have types whose `repr` hides them, and bytes from a guest enter through `errors.excerpt`
alone, so that nobody outside writes a host's log.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TextIO


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
        record = {"time": now, "level": level, "process": self._process, "event": event}
        try:
            self._stream.write(json.dumps(record | fields, default=_shown) + "\n")
            self._stream.flush()
        except OSError:
            return  # a full disk silences a log; it must not end a service and its guests


def get_logger(process: str) -> Log:
    """Give the log of a process."""
    return Log(process, sys.stderr)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
