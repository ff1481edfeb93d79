"""Giving up root, for good: every process of Tandem that parses what others send does it first."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Sequence
from typing import Final

from tandem.errors import HostError

PR_SET_PDEATHSIG: Final = 1  # prctl(2), linux/prctl.h
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

_libc = ctypes.CDLL(None, use_errno=True)


def require_root(what: str, why: str) -> None:
    """Refuse to begin as anybody but root."""
    if os.geteuid() != 0:
        raise HostError("TDM-NOT-ROOT", f"{what} needs root: {why}", hint="start it with sudo")


def require_root_or(uid: int, what: str, why: str) -> None:
    """Refuse to begin as anybody but root, or the user whom the process becomes anyway."""
    if set(os.getresuid()) != {uid}:
        require_root(what, why)


def drop_privileges(uid: int, groups: Sequence[int] = ()) -> None:
    """Become `uid` and the group of that number for good, without a way back or a core dump.

    Whoever is `uid` already, for systemd started it so, has nothing left to give up.
    """
    if set(os.getresuid()) != {uid}:
        os.setgroups(list(groups))
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    forbid_new_privileges()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_new_privileges() -> None:
    """Let no program that this process or its children run gain what they do not have."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; not after a change of user."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def hide_memory() -> None:
    """Keep other processes, those of the same user too, from reading or tracing this one."""
    _prctl(PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise HostError(
            "TDM-CONFINEMENT-FAILED",
            f"prctl {option} failed: {os.strerror(number)}",
            hint="run Tandem on Linux 5.8 or later, outside of other sandboxes",
        )
