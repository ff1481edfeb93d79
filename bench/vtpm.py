"""The vTPM against swtpm, side by side in one run: creation, start, round trips, memory.

Client and server of a round trip are pinned to one core: unpinned, the scheduler moves either by
a factor of four.  Memory and time are those of vTPM and zygote; the Manager is the host's own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Final

from bench.figures import Figure, in_turn
from tandem.channel import Channel, expect
from tandem.readiness import wait_until_ready
from tandem.settings import HostPaths
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command, Request
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    OpenPair,
    PairOpened,
)
from tandem.wire.tpm_commands import StartupType
from tests.integration.vtpm.pair_harness import PairUnderTest, ZygoteUnderTest

CORE: Final = 0
READY_SECONDS: Final = 30.0
REST_SECONDS: Final = 0.25
STARTS: Final = 31
CREATIONS: Final = 41
ROUND_TRIPS: Final = 4000
ROUNDS: Final = 9
MORE_VTPMS: Final = 50
DIGEST: Final = bytes(range(32))
COMMANDS: Final = {
    "rtt_getrandom": tpm.command(0x17B, parameters=(16).to_bytes(2)),
    "rtt_pcr_read": tpm.pcr_read([10]),
    "rtt_pcr_extend": tpm.pcr_extend(10, {tpm.SHA256: DIGEST}),
}


def figures(host: Path, manager: Sequence[str]) -> list[Figure]:
    """Measure everything there is about a vTPM alone; `manager` is the command that serves `host`.

    No Manager may serve the host before.
    """
    with (
        tempfile.TemporaryDirectory(prefix="swtpm-", dir=host.parent) as swtpms,
        _running(manager, host) as builder,
        Bench(HostPaths(host), Path(swtpms), builder) as bench,
    ):
        return [create(bench), start(bench), *round_trips(bench), memory(bench)]


@contextmanager
def _running(manager: Sequence[str], host: Path) -> Iterator[Channel]:
    """Run the host's Manager; give the builder's connection to it."""
    ready, theirs = os.pipe()
    process = subprocess.Popen(
        [*manager, "--host", str(host), "--ready-fd", str(theirs)],
        pass_fds=[theirs],
        stderr=subprocess.DEVNULL,  # its log; why it did not start comes over `theirs`
    )
    os.close(theirs)
    try:
        if not wait_until_ready(ready, READY_SECONDS):
            raise RuntimeError("the Manager did not start")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(HostPaths(host).manager_socket))
            yield Channel(connection, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)
    finally:
        os.close(ready)
        process.terminate()
        process.wait()


class Bench:
    """A zygote, and directories for the state of vTPMs: of ours, and of swtpm's."""

    def __init__(self, host: HostPaths, swtpms: Path, builder: Channel) -> None:
        self._host = host
        self._swtpms = swtpms
        self._builder = builder
        self._number = count()
        self.zygote = ZygoteUnderTest()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.zygote.close()

    def open_pair(self, request: OpenPair) -> tuple[PairOpened, socket.socket]:
        """Open a pair at the Manager, as the builder does."""
        self._builder.send(request)
        answer, descriptors = self._builder.receive_any()
        return expect(answer, PairOpened), socket.socket(fileno=descriptors[0])

    @contextmanager
    def pair(self, vtpm: str) -> Iterator[PairUnderTest]:
        """Start a vTPM."""
        pair = PairUnderTest(self.zygote, self.open_pair, self._host.vtpm / vtpm, vtpm=vtpm)
        try:
            yield pair
        finally:
            pair.close()

    def name(self) -> str:
        """Give a name that no vTPM has yet."""
        return f"vtpm-{next(self._number)}"

    def swtpm_state(self) -> Path:
        """Make an empty directory for the state of an swtpm."""
        directory = self._swtpms / self.name()
        directory.mkdir()
        return directory


class Swtpm:
    """An `swtpm socket` process with its control channel, started as libvirt starts it."""

    def __init__(self, state: Path) -> None:
        path = state / "ctrl"
        path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--terminate",
             "--ctrl", f"type=unixio,path={path}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # as libvirt's --daemon does: a scheduler group of its own
        )  # fmt: skip
        self._control = socket.socket(socket.AF_UNIX)
        while self._control.connect_ex(str(path)):
            time.sleep(0.0005)
        self.data, theirs = socket.socketpair()
        request = Request(command=Command.SET_DATAFD).encode()
        socket.send_fds(self._control, [request], [theirs.fileno()])
        self._control.recv(4)
        theirs.close()
        self._control.sendall(Request(command=Command.INIT, fields=(0,)).encode())
        self._control.recv(4)

    def close(self) -> None:
        """Hang up, which ends it."""
        self.data.close()
        self._control.close()
        self.process.wait()


def create(bench: Bench) -> Figure:
    """Make a vTPM with RSA-2048 and ECC P-256 EK and certificates, against swtpm_setup."""

    def ours() -> float:
        began = time.perf_counter()
        with bench.pair(bench.name()) as pair:
            pair.ready()
            return (time.perf_counter() - began) * 1e3

    def theirs() -> float:
        state = bench.swtpm_state()
        began = time.perf_counter()
        set_up_swtpm(state)
        return (time.perf_counter() - began) * 1e3

    tandem, peer = in_turn(ours, theirs, CREATIONS)
    return Figure(name="create", unit="ms", peer_name="swtpm_setup", tandem=tandem, peer=peer)


def set_up_swtpm(state: Path) -> None:
    """Make an swtpm's state with EK and platform certificates by its local CA."""
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpm-state", str(state), "--createek", "--create-ek-cert",
         "--create-platform-cert", "--lock-nvram", "--not-overwrite"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def start(bench: Bench) -> Figure:
    """Start a vTPM that exists and get its first response, against `swtpm socket`.

    Either side starts on a host at rest: the zygote then has its spare process.
    """
    name, state = bench.name(), bench.swtpm_state()
    set_up_swtpm(state)
    with bench.pair(name) as pair:
        pair.ready()

    def theirs() -> float:
        time.sleep(REST_SECONDS)
        began = time.perf_counter()
        swtpm = Swtpm(state)
        start_guest(swtpm.data)
        taken = time.perf_counter() - began
        swtpm.close()
        return taken * 1e3

    tandem, peer = in_turn(lambda: _start_ours(bench, name), theirs, STARTS)
    return Figure(name="start", unit="ms", peer_name="swtpm socket", tandem=tandem, peer=peer)


def _start_ours(bench: Bench, name: str) -> float:
    """Give the milliseconds from OpenPair to the first response, less the hypervisor's own."""
    time.sleep(REST_SECONDS)
    began = time.perf_counter()
    with bench.pair(name) as pair:
        pair.ready()
        until_ready = time.perf_counter() - began
        pair.start_guest()
        pair.wait_for_puppet()
        began = time.perf_counter()
        pair.ask(Command.SET_DATAFD, descriptors=[pair.vtpm_data.fileno()])
        pair.ask(Command.INIT, 0)
        start_guest(pair.data)
        return (until_ready + time.perf_counter() - began) * 1e3


def start_guest(data: socket.socket) -> None:
    """Send the guest's first command and wait for its response."""
    data.sendall(tpm.startup(StartupType.CLEAR))
    if int.from_bytes(data.recv(4096)[6:10]):
        raise RuntimeError("Startup failed")


def round_trips(bench: Bench) -> list[Figure]:
    """Exchange one command and its response, again and again, both ends pinned to one core."""
    affinity = os.sched_getaffinity(0)
    state = bench.swtpm_state()
    set_up_swtpm(state)
    swtpm = Swtpm(state)
    with bench.pair(bench.name()) as pair:
        pair.ready()
        pair.start_guest()
        pair.connect()
        try:
            for process in (pair.pid, swtpm.process.pid, os.getpid()):
                for task in os.listdir(f"/proc/{process}/task"):
                    os.sched_setaffinity(int(task), {CORE})
            start_guest(pair.data)
            start_guest(swtpm.data)
            return [_compare(name, pair.data, swtpm.data) for name in COMMANDS]
        finally:
            os.sched_setaffinity(0, affinity)
            swtpm.close()


def _compare(name: str, ours: socket.socket, theirs: socket.socket) -> Figure:
    command = COMMANDS[name]
    tandem, peer = in_turn(
        lambda: _round_trip(ours, command), lambda: _round_trip(theirs, command), ROUNDS
    )
    return Figure(name=name, unit="us", peer_name="swtpm", tandem=tandem, peer=peer)


def _round_trip(data: socket.socket, command: bytes) -> float:
    """Give the microseconds of one exchange, over many."""
    send, receive = data.sendall, data.recv
    began = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        send(command)
        receive(4096)
    return (time.perf_counter() - began) / ROUND_TRIPS * 1e6


def memory(bench: Bench) -> Figure:
    """Proportional set size that each further idle vTPM adds to what runs already.

    The first of each side pays for the pages that the others share with it.  The zygote's spare
    process stays out of the sum: there is one of it, however many vTPMs there are.
    """
    with ExitStack() as stack:
        pids, ours = [bench.zygote.process.pid], []
        for _ in range(1 + MORE_VTPMS):
            pair = stack.enter_context(bench.pair(bench.name()))
            pair.ready()
            pids.append(pair.pid)
            time.sleep(REST_SECONDS)
            ours.append(_pss(pids))
    with ExitStack() as stack:
        pids, theirs = [], []
        for _ in range(1 + MORE_VTPMS):
            swtpm = Swtpm(bench.swtpm_state())
            stack.callback(swtpm.close)
            pids.append(swtpm.process.pid)
            time.sleep(REST_SECONDS)
            theirs.append(_pss(pids))
    return Figure(
        name="pss_each", unit="MB", peer_name="swtpm", tandem=_steps(ours), peer=_steps(theirs)
    )


def _steps(totals: Sequence[float]) -> tuple[float, ...]:
    return tuple(after - before for before, after in pairwise(totals))


def _pss(pids: Sequence[int]) -> float:
    """Give the proportional set size of processes, in megabytes (10^6 bytes)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total / 1e6
