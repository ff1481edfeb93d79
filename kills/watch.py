"""Watches every process of a host: finds it, holds its pidfd, notes its end, judges by the rules.

Whoever runs this is the subreaper of the host, as init is on a machine: whatever a dying process
leaves comes to it, so nothing gets out of sight.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from kills.ledger import Console, Ledger
from kills.processes import HALVES, PLASTIC, Role, Seen, descendants, look, open_console, open_space
from kills.rules import Life, Violation, violations
from tandem.hypervisor.process import start_time

PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
INTERVAL: Final = 0.04  # seconds between two looks
KEPT: Final = 10.0  # seconds for which the dead are remembered
BLOCK: Final = 65536


@dataclass(kw_only=True)
class Watched:
    """One process; a descriptor is -1 once it is closed."""

    seen: Seen
    pidfd: int
    space: int  # a descriptor of its PID namespace: while it is held, no other gets its number
    born: float
    maker: Watched | None  # None: it was orphaned before it was seen
    killed: float | None = None
    died: float | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    status: int | None = None  # as os.waitstatus_to_exitcode gives it; None: not ours to reap
    reaped: bool = False
    console: Console | None = None
    console_log: int = -1

    @property
    def left(self) -> float | None:
        """When it was killed, or else ended: a vTPM's end shows only after its hypervisor's."""
        return self.died if self.killed is None else self.killed

    @property
    def orphaned(self) -> float | None:
        """When what it depends on died: a vTPM depends on its builder, not on the zygote."""
        maker = self.maker
        if self.seen.role is Role.VTPM and maker is not None and maker.seen.role is Role.ZYGOTE:
            maker = maker.maker
        return self.born if maker is None else maker.left

    def kill(self, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal; False where it has ended, or was killed, already."""
        if self.died is not None or self.killed is not None:
            return False
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:  # reaped, and about to be noticed
            return False
        if number is signal.SIGKILL:
            self.killed = asyncio.get_running_loop().time()
        return True


class Watch:
    """Every process below this one, and what was found wrong."""

    def __init__(
        self,
        ledger: Ledger,
        report: Callable[[Violation], None],
        on_end: Callable[[str, int], None],
    ) -> None:
        self._on_end = on_end
        self._ledger = ledger
        self._report = report
        self._watched: dict[tuple[int, int], Watched] = {}
        self._told: set[tuple[str, int]] = set()
        self._loop = asyncio.get_running_loop()
        self.longest_stall = 0.0
        self.gaps: dict[Role, list[float]] = {role: [] for role in HALVES}  # seconds it lived on

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            before = self._loop.time()
            self.look()
            await asyncio.sleep(INTERVAL)
            self.longest_stall = max(self.longest_stall, self._loop.time() - before - INTERVAL)

    def look(self) -> None:
        """Look once: new processes, what became of others, consoles, rules."""
        now = self._loop.time()
        for pid in list(descendants(os.getpid())):
            self._meet(pid, now)
        for each in list(self._watched.values()):
            if each.died is None and each.seen.role in PLASTIC:
                self._look_again(each)
            self._read_console(each, now)
            if each.died is not None:
                self._reap(each)
        for found in violations([self._life(each) for each in self._watched.values()], now):
            if found.rule != "two-places" or self._is_in_two_places(found.pid):
                self._tell(found)
        self._forget(now)

    def living(self, role: Role) -> Iterator[Watched]:
        """Give the living processes of one role."""
        return (each for each in self._watched.values() if each.died is None
                and each.seen.role is role)  # fmt: skip

    def of_guest(self, guest: str, role: Role) -> Watched | None:
        """Give a half of a guest's newest pair, if it lives."""
        halves = [*self.living(Role.VTPM), *self.living(Role.HYPERVISOR)]
        spaces = [each.seen.namespace for each in halves if each.seen.guest == guest]
        return next((each for each in self.living(role) if each.seen.namespace in spaces), None)

    def find(self, pid: int) -> Watched | None:
        """Give a process that was just started; None where it has ended already."""
        self._meet(pid, self._loop.time())
        return self._by_pid(pid)

    def _meet(self, pid: int, now: float) -> None:
        started = start_time(pid)
        if started is None or (pid, started) in self._watched:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        space, seen = open_space(pid), look(pid)
        if space is None or seen is None or seen.start_time != started:
            _close(pidfd, space)
            with suppress(ChildProcessError):  # another's to reap
                os.waitpid(pid, os.WNOHANG)  # it ended before it was seen
            return
        maker = self._by_pid(seen.parent)
        each = Watched(seen=seen, pidfd=pidfd, space=space, born=now, maker=maker)
        self._watched[pid, started] = each
        self._loop.add_reader(pidfd, self._note_end, each)
        self._find_console(each)

    def _look_again(self, each: Watched) -> None:
        seen = look(each.seen.pid)
        if seen is not None and seen.start_time == each.seen.start_time:
            each.seen = seen
            self._find_console(each)

    def _note_end(self, each: Watched) -> None:
        self._loop.remove_reader(each.pidfd)
        os.close(each.pidfd)
        each.pidfd, each.died = -1, self._loop.time()
        self._read_console(each, each.died)
        self._measure_gap(each)
        self._ask_why(each)
        self._reap(each)
        each.gone.set()

    def _measure_gap(self, last: Watched) -> None:
        """Note for how long a half of a pair lived on, where the other was the first to go."""
        if last.seen.role not in HALVES or last.died is None or last.killed is not None:
            return
        for other in self._watched.values():
            same = other.seen.namespace == last.seen.namespace and other.seen.role in HALVES
            if same and other is not last and other.left is not None:
                self.gaps[last.seen.role].append(last.died - other.left)

    def _ask_why(self, guest: Watched) -> None:
        """Report a running guest that ended though nobody killed it or its vTPM."""
        if guest.console is None or guest.killed is not None:
            return
        others = [each for each in self._watched.values()
                  if each.seen.namespace == guest.seen.namespace]  # fmt: skip
        if guest.console.wrote and not any(each.killed for each in others):
            self._on_end(guest.seen.guest, guest.seen.pid)

    def _reap(self, each: Watched) -> None:
        """Reap it if it is ours: as its parent, or as the one that orphans come to."""
        if each.reaped:
            return
        try:
            pid, status = os.waitpid(each.seen.pid, os.WNOHANG)
        except ChildProcessError:
            each.reaped = start_time(each.seen.pid) != each.seen.start_time
            return
        if pid:
            each.reaped, each.status = True, os.waitstatus_to_exitcode(status)

    def _by_pid(self, pid: int) -> Watched | None:
        if pid == os.getpid():
            return None
        found = [each for each in self._watched.values() if each.seen.pid == pid]
        return found[-1] if found else None

    def _find_console(self, each: Watched) -> None:
        """Take hold of a hypervisor's output before its file can lose its name."""
        if each.seen.role is not Role.HYPERVISOR or each.died is not None:
            return
        descriptor = open_console(each.seen.pid)
        if descriptor is not None:
            each.console = Console(guest=each.seen.guest, pid=each.seen.pid)
            each.console_log = descriptor

    def _read_console(self, each: Watched, now: float) -> None:
        if each.console is None:
            self._find_console(each)
        if each.console is None or each.console_log < 0:
            return
        while output := os.read(each.console_log, BLOCK):
            for found in self._ledger.take(each.console, output, now):
                self._tell(found)
        if each.died is not None:
            os.close(each.console_log)
            each.console_log = -1

    def _is_in_two_places(self, pid: int) -> bool:
        """Look again whether two living vTPMs have one state open: one may just have ended."""
        using: set[tuple[int, int]] = set()
        again = [look(each.seen.pid) for each in self.living(Role.VTPM)]
        for seen in again:
            if seen is not None and seen.states & using:
                return True
            using |= seen.states if seen is not None else frozenset()
        return False

    def _life(self, each: Watched) -> Life:
        return Life(seen=each.seen, born=each.born, left=each.left, died=each.died,
                    orphaned=each.orphaned)  # fmt: skip

    def _tell(self, found: Violation) -> None:
        if (found.rule, found.pid) not in self._told:
            self._told.add((found.rule, found.pid))
            self._report(found)

    def _forget(self, now: float) -> None:
        """Forget the long dead; what they made still points to them."""
        for key, each in list(self._watched.items()):
            old = each.died is not None and each.reaped and now - each.died > KEPT
            if old and each.console_log < 0:
                os.close(each.space)
                del self._watched[key]


def _close(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)


def become_subreaper() -> None:
    """Have orphans below this process come to it, as they come to init elsewhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
