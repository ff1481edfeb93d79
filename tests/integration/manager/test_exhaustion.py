"""A full disk, too few descriptors, clients that stall: what is refused, and who is served on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tandem.channel import Closed, expect
from tandem.errors import HostError, TandemError
from tandem.evidence.deep_quote import leaf_hash
from tandem.evidence.merkle import root_of_path
from tandem.evidence.pair_record import record_digest
from tandem.wire.manager_rpc import (
    AskDeepQuote,
    AskStatus,
    CommitState,
    DeepQuoted,
    HostStatus,
    PairOpened,
    StateCommitted,
)
from tests.integration.manager.running_manager import (
    ROOT,
    RunningManager,
    Vtpm,
    alive,
    open_pair,
    wait_until,
)

ASK = AskDeepQuote(vtpm_quote_digest=b"q" * 32)
FEW_DESCRIPTORS = 100
WRITERS = 30
WRITTEN_SECONDS = 0.2  # the Manager has written its command to the pTPM by then


@pytest.fixture
def on_small_disk(template: Path, work: Path) -> Iterator[RunningManager]:
    """Give a running Manager whose host directory is a disk of 1 MiB."""
    place = work / "small-disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0711", "tmpfs", str(place)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    subprocess.run(["cp", "-a", str(template), str(place / "host")], check=True)
    manager = RunningManager(place / "host")
    manager.start()
    yield manager
    manager.close()
    subprocess.run(["umount", str(place)], check=True)
    place.rmdir()


def fill(directory: Path) -> Path:
    """Leave no byte free on a disk."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


def commit_until_refused(vtpm: Vtpm, version: int) -> tuple[int, HostError]:
    """Commit states from `version` on; gives the last one acknowledged, and the refusal."""
    while True:
        try:
            vtpm.commit(version)
        except HostError as error:
            return version - 1, error
        version += 1


def test_a_full_disk_ends_whom_it_concerns_and_heals(on_small_disk: RunningManager) -> None:
    # Given two vTPMs, and then no room on the disk
    manager = on_small_disk
    writing, quoting = manager.vtpm("writing"), manager.vtpm("quoting")
    for vtpm in (writing, quoting):
        vtpm.prepare()
        vtpm.commit(1)
    ballast = fill(manager.paths.root)
    # When one commits states until the disk takes no more
    reached, error = commit_until_refused(writing, 2)
    # Then it is told why and its pair ends, nobody starts a new one, and the other is served
    assert error.code == "TDM-STORE-NOT-WRITTEN"
    assert "make room" in error.hint
    with pytest.raises(Closed):
        writing.channel.receive()
    with pytest.raises(HostError) as refused:
        manager.connect().ask(open_pair("new"), PairOpened)
    assert refused.value.code == "TDM-STORE-NOT-WRITTEN"
    assert quoting.channel.ask(ASK, DeepQuoted).tree_size == 1
    assert manager.status().open_pairs == 1
    # And with room again, its newest acknowledged state is there: at once and after a restart
    ballast.unlink()
    again = manager.vtpm("writing")
    assert again.welcome.state_version == reached
    again.channel.close()
    quoting.channel.close()
    manager.stop()
    manager.start()
    found = manager.vtpm("writing").welcome
    assert (found.state_version, found.state_digest) == (reached, reached.to_bytes(32))
    assert manager.vtpm("new").opened.launch_number == 1


def test_a_manager_that_cannot_open_its_store_for_lack_of_room_says_so(
    on_small_disk: RunningManager,
) -> None:
    # Given a host whose disk filled while it was down
    manager = on_small_disk
    manager.stop()
    ballast = fill(manager.paths.root)
    # When it is started
    with pytest.raises(HostError) as raised:
        manager.start()
    # Then the error is about the disk and not about a damage, and with room it starts
    assert raised.value.code in ("TDM-STORE-NOT-OPENED", "TDM-PTPM-FAILURE-MODE")
    assert "make room" in raised.value.hint
    ballast.unlink()
    manager.start()
    assert manager.status().open_pairs == 0


def test_a_flood_of_connections_is_refused_by_name_and_passes(stopped: RunningManager) -> None:
    # Given a Manager that may open few descriptors, and a vTPM
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", str(_limited(stopped.paths.root)))
        stopped.start()
    vtpm, builder = stopped.vtpm("web"), stopped.connect()
    builder.ask(AskStatus(), HostStatus)
    # When somebody opens connections and pairs without end
    flood = [stopped.connect() for _ in range(FEW_DESCRIPTORS)]
    codes = set()
    for number, each in enumerate(flood):
        try:
            each.ask(open_pair(f"flood-{number}", ephemeral=True), PairOpened)
        except TandemError as error:
            codes.add(error.code)
        except (Closed, OSError):
            codes.add("closed")
    # Then they are told that it is full, and what was open is served
    assert "TDM-MANAGER-FULL" in codes
    assert codes <= {"TDM-MANAGER-FULL", "TDM-MESSAGE-DESCRIPTORS", "closed"}
    vtpm.prepare()
    assert vtpm.channel.ask(ASK, DeepQuoted).tree_size == 1
    assert builder.ask(AskStatus(), HostStatus).open_pairs >= 1
    # And when the flood is over, others are served too
    for each in flood:
        each.close()
    wait_until(lambda: builder.ask(AskStatus(), HostStatus).open_pairs == 1)
    assert stopped.vtpm("other").opened.launch_number == 1


def _limited(directory: Path) -> Path:
    """Write a Python that may open few descriptors."""
    script = directory / "python"
    script.write_text(f'#!/bin/sh\nulimit -n {FEW_DESCRIPTORS}\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


def test_who_commits_at_the_same_moment_shares_commits(manager: RunningManager) -> None:
    # Given many vTPMs
    vtpms = [manager.vtpm(f"web-{number}") for number in range(WRITERS)]
    before = manager.status().store_commits
    # When all commit their first state at once, while nobody waits for another
    request = CommitState(version=1, digest=b"1" * 32)
    for vtpm in vtpms:
        vtpm.channel.send(request)
    for vtpm in vtpms:
        assert vtpm.channel.receive()[0] == StateCommitted(version=1)
    # Then the disk and the pTPM were asked far fewer times, and every state is durable
    assert manager.status().store_commits - before < WRITERS / 2
    manager.kill()
    manager.start()
    for number in range(WRITERS):
        assert manager.vtpm(f"web-{number}").welcome.state_version == 1


def test_vtpms_of_many_threads_each_get_their_own(manager: RunningManager) -> None:
    # Given vTPMs that save and quote without regard to each other
    vtpms = [manager.vtpm(f"busy-{number}") for number in range(12)]

    def live(at: int) -> bool:
        vtpm = vtpms[at]
        prepared = vtpm.prepare()
        for version in range(1, 6):
            vtpm.commit(version)
            quoted = vtpm.channel.ask(ASK, DeepQuoted)
            leaf = leaf_hash(quoted.salt, record_digest(prepared.record), b"q" * 32)
            root = root_of_path(leaf, quoted.leaf_index, quoted.tree_size, quoted.path)
            assert root is not None
            assert root in quoted.attest
        return True

    # When they do so at once
    with ThreadPoolExecutor(len(vtpms)) as threads:
        done = list(threads.map(live, range(len(vtpms))))
    # Then each has its five states, and its quotes lead to what the pTPM signed
    assert all(done)
    status = manager.status()
    assert status.deep_quotes == 5 * len(vtpms)
    assert status.store_commits < 6 * len(vtpms) + len(vtpms)
    for number in range(len(vtpms)):
        vtpms[number].channel.close()
        assert manager.vtpm(f"busy-{number}").welcome.state_version == 5


def test_who_never_reads_holds_nobody_up(manager: RunningManager) -> None:
    # Given somebody who asks and never reads
    deaf = manager.connect()
    deaf.sock.setblocking(False)
    with suppress(BlockingIOError, Closed):
        while True:
            deaf.send(AskStatus())
    # When others ask
    # Then they are answered
    assert manager.status().open_pairs == 0
    assert manager.vtpm("web").prepare().record


def test_a_ptpm_that_hangs_is_not_lied_about(manager: RunningManager) -> None:
    # Given a pTPM that does not answer for a while
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    swtpm = manager.swtpm()
    os.kill(swtpm, signal.SIGSTOP)
    try:
        # When a state is to be committed
        vtpm.channel.send(CommitState(version=1, digest=b"1" * 32))
        vtpm.channel.sock.settimeout(0.3)
        with pytest.raises(socket.timeout):
            vtpm.channel.receive()
    finally:
        os.kill(swtpm, signal.SIGCONT)
    # Then it is acknowledged only once the pTPM has answered
    vtpm.channel.sock.settimeout(10)
    message, _ = vtpm.channel.receive()
    assert expect(message, StateCommitted).version == 1


def test_a_ptpm_at_work_ends_with_a_killed_manager(manager: RunningManager) -> None:
    # Given a Manager that waits for its pTPM's answer
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    swtpm = manager.swtpm()
    os.kill(swtpm, signal.SIGSTOP)
    vtpm.channel.send(CommitState(version=1, digest=b"1" * 32))
    time.sleep(WRITTEN_SECONDS)
    # When it is killed before the answer
    manager.kill()
    with suppress(ProcessLookupError):
        os.kill(swtpm, signal.SIGCONT)
    # Then the pTPM is gone with it, although it was at work, and its state is free for the next
    wait_until(lambda: not alive(swtpm))
    manager.start()
    assert manager.vtpm("web").welcome.state_version == 1  # durable, and rolled forward


def test_one_who_dies_between_open_and_hello_leaves_no_pair(manager: RunningManager) -> None:
    # Given builders that die before they take the key channel
    script = (
        "import socket, sys\n"
        "from tandem.channel import Channel\n"
        "from tests.integration.manager.running_manager import open_pair\n"
        "from tandem.wire.manager_rpc import BUILDER_ANSWERS, BUILDER_REQUESTS\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "sock.connect(sys.argv[1])\n"
        "channel = Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)\n"
        "channel.send(open_pair('web'))\n"
    )
    path = [str(ROOT), str(ROOT / "src")]
    for _ in range(3):
        subprocess.run(
            [sys.executable, "-c", script, str(manager.paths.manager_socket)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            check=True,
        )
    # When the vTPM is opened by one that lives
    wait_until(lambda: manager.status().open_pairs == 0)
    vtpm = manager.vtpm("web")
    # Then it is free, and every launch was counted
    assert vtpm.opened.launch_number == 4
    assert alive(manager.pid)
