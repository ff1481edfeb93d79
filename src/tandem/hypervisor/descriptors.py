"""Descriptors that a launch holds for a moment: closed together, whatever happens."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

CONNECT_SECONDS: Final = 1
TIMEVAL: Final = struct.Struct("ll")  # struct timeval: seconds, microseconds


class Descriptors:
    """A scope that closes what was opened in it."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._open:
            os.close(self._open.pop())

    def keep(self, descriptor: int) -> int:
        """Close `descriptor` with this scope, and give it back."""
        self._open.append(descriptor)
        return descriptor

    def open(self, path: str | Path, flags: int, *, at: int | None = None) -> int:
        """Open a file for the life of this scope; one that it makes is its owner's alone."""
        return self.keep(os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=at))

    def listen(
        self,
        directory: int,
        name: str,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        backlog: int = 1,
    ) -> int:
        """Listen on a Unix socket in a directory whose own path may be of any length."""
        with socket.socket(socket.AF_UNIX, kind) as listening:
            listening.bind(f"/proc/self/fd/{directory}/{name}")
            listening.listen(backlog)
            return self.keep(listening.detach())


def connect(
    directory: Path, name: str, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """Connect to a Unix socket in a directory whose own path may be of any length.

    A listener that takes no connections gets some, as its backlog, then an error: whoever listens
    may be hostile, and must not hold its caller for ever.
    """
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        # Not `settimeout`: it would not wait at all, for the kernel reports EAGAIN to it (unix(7)).
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEVAL.pack(CONNECT_SECONDS, 0)
        )
        connection.connect(f"/proc/self/fd/{at}/{name}")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEVAL.pack(0, 0))
    except OSError:
        connection.close()
        raise
    finally:
        os.close(at)
    return connection


def file_identity(descriptor: int) -> tuple[int, ...]:
    """Give what changes when a file is replaced or written to."""
    status = os.fstat(descriptor)
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )
