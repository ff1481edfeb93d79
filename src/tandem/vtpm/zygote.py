"""The zygote: a process that has imported everything, forks vTPMs, and hypervisors beside them.

It keeps root for that and does nothing else: it talks to the builder alone, over a socketpair that
it inherited.  A vTPM is PID 1 of a PID namespace of its own; its hypervisor is forked into that
namespace, so the kernel ends the hypervisor with the vTPM.  The death of the zygote ends no pair.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from tandem import channel as channels
from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused, TandemError, UntrustedInput
from tandem.privileges import drop_privileges
from tandem.vtpm.confinement import CallFilter
from tandem.vtpm.forking import fork
from tandem.vtpm.libtpms import Engine
from tandem.vtpm.namespaces import PidNamespaces
from tandem.vtpm.process import VtpmDescriptors, run_vtpm
from tandem.vtpm.warm_up import rehearse, warm_up
from tandem.wire.messages import failure
from tandem.wire.zygote_rpc import (
    ZYGOTE_ANSWERS,
    ZYGOTE_REQUESTS,
    Spawned,
    SpawnHypervisor,
    SpawnVtpm,
)

STANDARD: Final = 3  # descriptors 0 to 2
VTPM_DESCRIPTORS: Final = 5  # with SpawnVtpm
QUIET_MILLISECONDS: Final = 100  # without a request: no start is under way
HYPERVISOR_DESCRIPTORS: Final = 3  # executable, standard output and error, before the others
HYPERVISOR_LOG: Final = 16 << 20  # bytes; no guest fills the host's disk through its console
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that is to be a vTPM, or is one; `channel` tells it which."""

    pid: int
    pidfd: int
    channel: Channel


class Zygote:
    """Forks on the builder's request, and reaps.

    It keeps one child in advance, ready to become whichever vTPM is asked for next.
    """

    def __init__(self, channel: socket.socket, engine: Engine, calls: CallFilter) -> None:
        self._channel = Channel(channel, sends=ZYGOTE_ANSWERS, receives=ZYGOTE_REQUESTS)
        self._engine = engine
        self._calls = calls
        self._namespaces = PidNamespaces()
        self._spare: Child | None = None
        self._vtpms: dict[bytes, int] = {}  # pidfd of each pair's vTPM
        self._children: dict[int, int] = {}  # pid by pidfd
        self._poll = select.poll()

    def serve(self) -> None:
        """Serve until the builder closes the channel."""
        warm_up(self._engine)
        gc.collect()
        gc.freeze()  # children share these pages as long as nobody counts their references
        channel = self._channel.fileno()
        self._poll.register(channel, select.POLLIN)
        self._spare = self._fork_vtpm(spare=True)
        while True:
            ready = self._wait()
            for pidfd in ready:
                if pidfd != channel:
                    self._reap(pidfd)
            if channel in ready:
                try:
                    self._answer()
                except Closed:
                    return

    def _wait(self) -> list[int]:
        """Wait for a request or an end; in a quiet moment fork the spare that is missing."""
        ready = self._poll.poll(None if self._spare else QUIET_MILLISECONDS)
        if not ready:
            self._spare = self._fork_vtpm(spare=True)
        return [descriptor for descriptor, _ in ready]

    def _answer(self) -> None:
        try:
            message, descriptors = self._channel.receive_any()
        except UntrustedInput as error:
            self._channel.send(failure(error))
            return
        try:
            match message:
                case SpawnVtpm():
                    pid, pidfd = self._spawn_vtpm(message, descriptors)
                case SpawnHypervisor():
                    pidfd = self._spawn_hypervisor(message, descriptors)
                    descriptors.append(pidfd)  # not kept here: the vTPM reaps it
                    pid = _pid_of(pidfd)
                case _:
                    return
            self._channel.send(Spawned(pid=pid), [pidfd])
        except TandemError as error:
            self._channel.send(failure(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _spawn_vtpm(self, spawn: SpawnVtpm, descriptors: Sequence[int]) -> tuple[int, int]:
        _expect_descriptors(descriptors, VTPM_DESCRIPTORS)
        if spawn.pair_id in self._vtpms:
            raise Refused(
                "TDM-PAIR-HAS-A-VTPM",
                f"pair {spawn.pair_id.hex()} has its vTPM already",
                hint="open a new pair for each launch",
            )
        child, self._spare = self._spare or self._fork_vtpm(spare=False), None
        try:
            child.channel.send(spawn, descriptors)
        except Closed as error:
            raise HostError(
                "TDM-VTPM-NOT-STARTED",
                "the process that was to be the vTPM has ended",
                hint="start the guest again; the builder's log has what the process said",
            ) from error
        finally:
            child.channel.close()
        self._vtpms[spawn.pair_id] = child.pidfd
        return child.pid, child.pidfd

    def _fork_vtpm(self, *, spare: bool) -> Child:
        ours, theirs = channels.pair()
        with theirs, self._namespaces.new():
            pid = fork(lambda: self._be_vtpm(theirs, spare))
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        channel = Channel(ours, sends=ZYGOTE_REQUESTS, receives=ZYGOTE_ANSWERS)
        return Child(pid=pid, pidfd=pidfd, channel=channel)

    def _be_vtpm(self, zygote: socket.socket, spare: bool) -> int:
        _close_input()
        close_others([zygote.fileno()])
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as PID 1 it reaps its hypervisor, unasked
        if spare:
            rehearse()  # so that what a launch writes to has been copied when it comes
            self._engine.run_in()
        try:
            with zygote:
                channel = Channel(zygote, sends=ZYGOTE_ANSWERS, receives=ZYGOTE_REQUESTS)
                spawn, descriptors = channel.receive(VTPM_DESCRIPTORS)
        except Closed:  # the zygote has ended
            return 0
        if not isinstance(spawn, SpawnVtpm):
            raise TypeError("the zygote hands over SpawnVtpm alone")
        return run_vtpm(spawn, VtpmDescriptors(*descriptors), self._engine, self._calls)

    def _spawn_hypervisor(self, spawn: SpawnHypervisor, descriptors: Sequence[int]) -> int:
        _expect_descriptors(descriptors, HYPERVISOR_DESCRIPTORS + len(spawn.numbers))
        vtpm = self._vtpms.get(spawn.pair_id)
        if vtpm is None:
            raise Refused(
                "TDM-PAIR-WITHOUT-VTPM",
                f"pair {spawn.pair_id.hex()} has no vTPM",
                hint="the vTPM ended first: the builder's log says why",
            )
        reading, writing = os.pipe()  # closed by exec; otherwise it carries what went wrong
        try:
            with self._namespaces.of(vtpm):
                pidfd = _fork_orphan(lambda: _be_hypervisor(spawn, descriptors, writing))
            os.close(writing)
            writing = -1
            problem = os.read(reading, 1024).decode(errors="replace")
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        if problem:
            raise HostError(
                "TDM-HYPERVISOR-NOT-STARTED",
                f"the hypervisor did not start: {problem}",
                hint="look at its executable and at the limits of the host",
            )
        return pidfd

    def _reap(self, pidfd: int) -> None:
        os.waitpid(self._children.pop(pidfd), 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._vtpms = {pair: vtpm for pair, vtpm in self._vtpms.items() if vtpm != pidfd}
        if self._spare and self._spare.pidfd == pidfd:
            self._spare.channel.close()
            self._spare = None


def _fork_orphan(live: Callable[[], int]) -> int:
    """Fork a child whose parent is PID 1 of its namespace, the vTPM; give its pidfd.

    A namespace ends only when all its processes are reaped: left to a zygote that may be killed, or
    to whatever the host's first process is, a hypervisor could hold up the end of its vTPM.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        between = fork(lambda: _hand_over(theirs, live))
        theirs.close()
        _, pidfds, _, _ = socket.recv_fds(ours, 1, 1)
        os.waitpid(between, 0)
    if not pidfds:
        raise HostError(
            "TDM-HYPERVISOR-NOT-FORKED",
            "no process could be made for the hypervisor",
            hint="look at the host's memory and its limit of processes",
        )
    os.set_inheritable(pidfds[0], False)
    return pidfds[0]


def _hand_over(zygote: socket.socket, live: Callable[[], int]) -> int:
    """Fork, tell the zygote who the child is, and leave it behind."""
    pidfd = os.pidfd_open(fork(live))
    socket.send_fds(zygote, [b"\0"], [pidfd])
    return 0


def _pid_of(pidfd: int) -> int:
    """Give the pid behind a pidfd as it is in this namespace (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{pidfd}") as lines:
        pid = next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))
    if pid < 0:
        raise HostError(
            "TDM-PROCESS-ENDED-AT-ONCE",
            "a process ended as soon as it was started",
            hint="the builder's log has what it said on its standard error",
        )
    return pid


def _be_hypervisor(spawn: SpawnHypervisor, descriptors: Sequence[int], report: int) -> int:
    """Become the hypervisor: its user, its descriptors under their numbers, then exec."""
    try:
        _close_input()
        base = max((STANDARD, *spawn.numbers)) + 1
        executable, output, error, *others = (
            fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, base) for each in descriptors
        )
        report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, base)
        numbered = {1: output, 2: error, **dict(zip(spawn.numbers, others, strict=True))}
        for number, source in numbered.items():
            os.dup2(source, number, inheritable=True)
        close_others((*spawn.numbers, executable, report))
        drop_privileges(spawn.uid, spawn.groups)
        resource.setrlimit(resource.RLIMIT_FSIZE, (HYPERVISOR_LOG, HYPERVISOR_LOG))
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full console log ends no guest
        os.execve(executable, spawn.argv, ENVIRONMENT)  # noqa: S606 - a program, not a command line
    except (OSError, TandemError) as problem:
        os.write(report, str(problem).encode())
    return HostError.exit_status


def close_others(kept: Collection[int]) -> None:
    """Close every descriptor but the standard ones and `kept`: no pair holds another's."""
    start = STANDARD
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = max(start, descriptor + 1)
    os.closerange(start, _highest_descriptor())


def _highest_descriptor() -> int:
    return 1 << 30  # closerange asks the kernel once (close_range(2)), however far it goes


def _close_input() -> None:
    """Have no input and no output; standard error stays the builder's log."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def _expect_descriptors(descriptors: Sequence[int], expected: int) -> None:
    if len(descriptors) != expected:
        raise UntrustedInput(
            "TDM-ZYGOTE-DESCRIPTORS",
            f"{len(descriptors)} descriptors came with a request that needs {expected}",
            hint="builder and zygote must be of one version: restart the host's services",
            offset=0,
        )
