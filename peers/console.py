"""A guest's serial console, typed at and read by a program."""

from __future__ import annotations

import re
import socket
import time
from typing import Final, Self

PROMPT_MARK: Final = "tandem: console"  # the guest image prints it before its shell starts
SLICE_SECONDS: Final = 0.5


class ConsoleTimeout(Exception):
    """The guest did not print what was waited for; the last lines say what it printed."""


class Console:
    """A connected serial console."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(SLICE_SECONDS)
        self._unread = ""
        self._commands = 0
        self.transcript = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def wait_for(self, pattern: str, seconds: float) -> None:
        """Read until `pattern` matches; what follows the match stays for the next call."""
        self._read_until(pattern, seconds)

    def run(self, command: str, seconds: float = 60) -> str:
        """Type a shell command and give what it printed; its status must be 0."""
        self._commands += 1
        mark = f"done-{self._commands}"
        # The mark is typed in two parts, so that the terminal's echo of it does not match; what
        # the command prints begins on the line after that echo.
        self._sock.sendall(f"{command}; echo {mark[:2]}''{mark[2:]}:$?:\n".encode())
        before, match = self._read_until(rf"{mark}:(\d+):", seconds)
        printed = before.rpartition("$?:")[2].partition("\n")[2].replace("\r", "")
        if match[1] != "0":
            raise ConsoleTimeout(f"{command!r} ended with status {match[1]}: {printed[-600:]}")
        return printed

    def type(self, text: str) -> None:
        """Type a line and wait for nothing."""
        self._sock.sendall(f"{text}\n".encode())

    def _read_until(self, pattern: str, seconds: float) -> tuple[str, re.Match[str]]:
        deadline = time.monotonic() + seconds
        while (match := re.search(pattern, self._unread)) is None:
            if time.monotonic() > deadline:
                raise ConsoleTimeout(f"no {pattern!r} in {seconds} s: ...{self.transcript[-600:]}")
            self._read_some()
        before, self._unread = self._unread[: match.start()], self._unread[match.end() :]
        return before, match

    def _read_some(self) -> None:
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            return
        if not data:
            raise ConsoleTimeout(f"the guest is gone: ...{self.transcript[-600:]}")
        text = data.decode(errors="replace")
        self._unread += text
        self.transcript += text
