"""The Manager as systemd starts it: a socket and a place to tell are given, perhaps no root."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandem.channel import Channel
from tandem.settings import UID_BASE
from tandem.wire.manager_rpc import BUILDER_ANSWERS, BUILDER_REQUESTS, AskStatus, HostStatus
from tests.integration.manager.running_manager import RunningManager, ready

SECONDS = 30.0
WATCHDOG = 0.4  # seconds; a sign of life is due after half of it
LISTEN_FD = 3

pytestmark = pytest.mark.skipif(not ready(), reason="needs root and swtpm-tools")


@dataclass(frozen=True, kw_only=True)
class Supervised:
    process: subprocess.Popen[bytes]
    told: socket.socket
    path: Path

    def word(self) -> str:
        return self.told.recv(100).decode()

    def ask(self) -> HostStatus:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(SECONDS)
        sock.connect(str(self.path))
        channel = Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)
        try:
            return channel.ask(AskStatus(), HostStatus)
        finally:
            channel.close()


@contextmanager
def supervised(manager: RunningManager, uid: int) -> Iterator[Supervised]:
    """Start the Manager as systemd would, as a user; it is killed at the end."""
    run = manager.paths.run
    run.mkdir(mode=0o711, exist_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(run / "given.sock"))
    listening.listen(64)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(run / "notify"))
    told.settimeout(SECONDS)
    (run / "notify").chmod(0o666)
    variables = {
        "NOTIFY_SOCKET": str(run / "notify"),
        "WATCHDOG_USEC": str(int(WATCHDOG * 1_000_000)),
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "manager",
        "PYTHONPATH": os.environ["PYTHONPATH"],
        "PATH": os.defpath,
    }
    command = [sys.executable, "-m", "tandem.manager", "--host", str(manager.paths.root)]
    # The variable names the process that is meant, and descriptor 3 is the first that is given.
    shell = f"LISTEN_PID=$$ exec {' '.join(command)} {LISTEN_FD}<&{listening.fileno()}"
    with (run / "manager.log").open("ab") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", shell],
            pass_fds=[listening.fileno()],
            env=variables,
            user=uid,
            group=uid,
            extra_groups=[],
            cwd="/",
            stderr=log,
        )
    try:
        yield Supervised(process=process, told=told, path=run / "given.sock")
    finally:
        process.kill()
        process.wait()
        told.close()
        listening.close()


def reachable_by_others(path: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def test_a_supervised_manager_says_that_it_is_ready_and_alive_and_when_it_ends(
    stopped: RunningManager,
) -> None:
    # Given a Manager with a socket that somebody else made
    with supervised(stopped, 0) as service:
        # When it has started
        assert service.word() == "READY=1"
        # Then it serves there, gives signs of life, and makes no socket of its own
        assert service.ask().open_pairs == 0
        assert [service.word() for _ in range(3)] == ["WATCHDOG=1"] * 3
        assert not stopped.paths.manager_socket.exists()
        # And says when it is told to end
        service.process.send_signal(signal.SIGTERM)
        words = [service.word()]
        while words[-1] == "WATCHDOG=1":
            words.append(service.word())
        assert words[-1] == "STOPPING=1"
        assert service.process.wait(SECONDS) == 0


def test_a_manager_whose_loop_stands_still_gives_no_sign_of_life(stopped: RunningManager) -> None:
    # Given a Manager that lives
    with supervised(stopped, 0) as service:
        assert service.word() == "READY=1"
        # When its loop stands still
        service.process.send_signal(signal.SIGSTOP)
        service.told.settimeout(2 * WATCHDOG)
        while True:
            try:
                service.word()
            except TimeoutError:
                break
        # Then nobody hears of it for longer than the watchdog waits, until it goes on
        service.told.settimeout(SECONDS)
        service.process.send_signal(signal.SIGCONT)
        assert service.word() == "WATCHDOG=1"


@pytest.mark.skipif(
    not reachable_by_others(Path(sys.prefix)), reason="this Python is closed to other users"
)
def test_a_manager_that_never_was_root_serves_as_well(stopped: RunningManager) -> None:
    # Given a Manager that is started as its own user
    with supervised(stopped, UID_BASE) as service:
        # When it has started
        assert service.word() == "READY=1"
        # Then it serves, with the embedded pTPM, and is nobody else
        assert service.ask().ptpm == "embedded"
        status = Path(f"/proc/{service.process.pid}/status").read_text()
        assert f"Uid:\t{UID_BASE}\t{UID_BASE}\t{UID_BASE}\t{UID_BASE}" in status
