"""PID namespaces, through the two system calls that Python 3.11 has no function for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tandem.errors import HostError

CLONE_NEWPID: Final = 0x20000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)


class PidNamespaces:
    """Where this process's children are born; itself it stays where it is (pid_namespaces(7))."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def new(self) -> Iterator[None]:
        """Let the child forked here be PID 1 of a new namespace: with it, all in there end."""
        _checked("unshare", _libc.unshare(CLONE_NEWPID))
        try:
            yield
        finally:
            self._return()

    @contextmanager
    def of(self, pidfd: int) -> Iterator[None]:
        """Let the child forked here live in the namespace of the process behind `pidfd`."""
        _checked("setns", _libc.setns(pidfd, CLONE_NEWPID))
        try:
            yield
        finally:
            self._return()

    def _return(self) -> None:
        _checked("setns", _libc.setns(self._own, CLONE_NEWPID))


def _checked(call: str, status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise HostError(
            "TDM-NAMESPACE-FAILED",
            f"{call} failed: {os.strerror(number)}",
            hint="run the builder as root, on Linux 5.8 or later, outside of a container",
        )
