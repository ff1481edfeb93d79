"""A process by pidfd: it can be waited for and killed, and never mistaken for a later one."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

START_TIME_FIELD: Final = 22  # proc(5), /proc/pid/stat: in clock ticks since boot
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class ProcessName:
    """What names a process within one boot, for the journal."""

    pid: int
    start_time: int


class Process:
    """A process that this one holds a pidfd of; made inside the event loop that watches it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.name = ProcessName(pid=pid, start_time=start_time(pid) or 0)
        self._loop.add_reader(pidfd, self._notice)

    @property
    def alive(self) -> bool:
        """Whether the process was not seen to end yet."""
        return not self._gone.is_set()

    async def wait(self) -> None:
        """Wait until the process is gone."""
        await self._gone.wait()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; a process that is gone gets none."""
        if not self.alive:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return  # gone, and about to be noticed

    def _notice(self) -> None:
        self._loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        self._gone.set()


def find(name: ProcessName) -> Process | None:
    """Take hold of a process again, if there was one and it is still the same."""
    if name.pid == 0:
        return None
    try:
        pidfd = os.pidfd_open(name.pid)
    except ProcessLookupError:
        return None
    if start_time(name.pid) != name.start_time:
        os.close(pidfd)
        return None
    return Process(name.pid, pidfd)


def start_time(pid: int) -> int | None:
    """Give when a process started, or None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = stat.rpartition(")")[2].split()  # the name may hold spaces; field 3 is the first
    return int(after_name[START_TIME_FIELD - 3])


@cache
def boot_id() -> str:
    """Give the kernel's name for this boot."""
    return BOOT_ID.read_text(encoding="ascii").strip()
