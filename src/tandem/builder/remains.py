"""Remains: processes of a pair that no journal entry names, found by what they have open.

A vTPM listens at the door in its pair's directory, and its end is its hypervisor's.  One that does
not answer is met through its hypervisor, which has its log in that directory: its end is the vTPM's
(a builder under systemd may not see what other users' processes have open).  A vTPM that has no
hypervisor yet ends with its builder.  Root's processes are none of a pair's: whoever reads the
guest's console there, a log collector say, is not to be killed for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tandem.builder.door import knock
from tandem.builder.exchange import close_all, receive
from tandem.channel import Closed
from tandem.errors import UntrustedInput
from tandem.hypervisor.process import ProcessName, start_time
from tandem.wire.zygote_rpc import EndVtpm

PROC: Final = Path("/proc")
END_SECONDS: Final = 2.0


async def ask_to_end(directory: Path) -> None:
    """Have the vTPM of a pair end in order, if it hears."""
    status = knock(directory)
    if status is None:
        return
    with suppress(Closed, UntrustedInput, TimeoutError), status.sock:
        async with asyncio.timeout(END_SECONDS):
            status.send(EndVtpm())
            while True:
                _, descriptors = await receive(status)
                close_all(descriptors)


def holders(directory: Path) -> list[ProcessName]:
    """Name the processes without privilege that have a file below `directory` open."""
    below = os.fspath(directory) + os.sep
    found = []
    for pid in _pids():
        if _is_roots(pid) or not _has_open(pid, below):
            continue
        began = start_time(pid)
        if began is not None:
            found.append(ProcessName(pid=pid, start_time=began))
    return found


def _is_roots(pid: int) -> bool:
    """Whether a process runs as root; the owner of its /proc files says that of others, too."""
    with suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("Uid:"):  # real, effective, saved, of the file system: proc(5)
                return "0" in line.split()[1:]
    return True  # it has ended


def _has_open(pid: int, below: str) -> bool:
    descriptors = PROC / str(pid) / "fd"
    with suppress(OSError):  # it has ended, or is the kernel's own
        for name in os.listdir(descriptors):
            with suppress(OSError):
                if os.readlink(descriptors / name).startswith(below):
                    return True
    return False


def _pids() -> Iterator[int]:
    return (int(each.name) for each in PROC.iterdir() if each.name.isdigit())
