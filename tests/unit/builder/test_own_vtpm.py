"""The life of the host's own vTPM in its builder: started once, ended whole, adopted.

Manager, zygote and kernel are stand-ins; the vTPM is a child process that sleeps.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tandem.builder import own_vtpm
from tandem.builder.actions import Actions
from tandem.builder.directories import Directories
from tandem.builder.measure import Builder
from tandem.builder.own_launch import ENDED, FAILED, RUNNING, STARTING, OwnJournal
from tandem.builder.own_vtpm import OwnVtpm
from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused, TandemError
from tandem.hypervisor.process import Process
from tandem.hypervisor.vtpm_proxy import ProxyDevice
from tandem.settings import HostPaths
from tandem.wire.manager_rpc import OpenPair, PairOpened
from tandem.wire.zygote_rpc import (
    STATUS_REPORTS,
    STATUS_REQUESTS,
    SpawnVtpm,
    VtpmEnded,
    VtpmNoted,
    VtpmReady,
)
from tests.unit.builder import signing

NONE = cast(Any, None)
READY = VtpmReady(manufactured=False, microseconds=1)
BROKEN = VtpmEnded(code="TDM-STATE-OLDER", reason="an older copy")


class World:
    """Stand-ins for whatever the builder asks, and what they were asked."""

    def __init__(self, directory: Path) -> None:
        self.paths = HostPaths(directory)
        self.says: tuple[object, ...] = (READY,)
        self.shown = True
        self.opened: list[OpenPair] = []
        self.closed: list[bytes] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self._vtpms: list[Channel] = []
        self.key = key = signing.new_key()
        (self.paths.library / "keys").mkdir(parents=True)
        (self.paths.library / "keys" / "library.pub").write_bytes(signing.public_pem(key))
        entry = {"kind": "build-once", "role": "host"}
        signing.sign(self.paths.library, key, {"host": entry})
        self.paths.builder.mkdir()

    async def open_pair(self, request: OpenPair) -> tuple[PairOpened, int]:
        self.opened.append(request)
        number = len(self.opened)
        return PairOpened(pair_id=bytes([number]) * 16, launch_number=number), os.eventfd(0)

    async def close_pair(self, pair_id: bytes) -> None:
        self.closed.append(pair_id)

    async def spawn_vtpm(self, message: SpawnVtpm, descriptors: tuple[int, ...]) -> Process:
        child = subprocess.Popen(["/bin/sleep", "60"])
        self.children.append(child)
        sock = socket.socket(fileno=os.dup(descriptors[2]))
        vtpm = Channel(sock, sends=STATUS_REPORTS, receives=STATUS_REQUESTS)
        for each in self.says:
            vtpm.send(each)
        self._vtpms.append(vtpm)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._hear, child, vtpm)
        return Process(child.pid, os.pidfd_open(child.pid))

    def _hear(self, child: subprocess.Popen[bytes], vtpm: Channel) -> None:
        """Do as told, or hear that the builder is gone."""
        try:
            message, _ = vtpm.receive()
        except Closed:
            message = None
        if isinstance(message, VtpmNoted):
            return
        asyncio.get_running_loop().remove_reader(vtpm.fileno())
        if message is not None:
            child.kill()
        vtpm.close()

    def builder(self, tasks: asyncio.TaskGroup) -> OwnVtpm:
        actions = Actions(
            builder=Builder(version="0.1.0", digest=bytes(32)),
            hypervisor=NONE,
            keys=self.paths.library / "keys",
            inputs=NONE,
            directories=Directories(self.paths.run / "pairs", self.paths.vtpm),
            journal=NONE,
            manager=cast(Any, self),
            zygote=cast(Any, self),
            watch=NONE,
        )
        return OwnVtpm(self.paths, actions, tasks)

    @property
    def journal(self) -> OwnJournal:
        return OwnJournal(self.paths.builder / "host-vtpm.json")

    def state(self) -> str:
        newest = self.journal.newest()
        return "" if newest is None else newest.state


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path)

    class Device(ProxyDevice):
        @property
        def shown(self) -> bool:
            return world.shown

    monkeypatch.setattr(own_vtpm, "open_proxy", lambda: os.eventfd(0))
    monkeypatch.setattr(
        own_vtpm, "new_device", lambda _: Device(number=1, descriptor=os.eventfd(0))
    )
    yield world
    for child in world.children:
        child.kill()
        child.wait()


def play(world: World, story: Callable[[OwnVtpm], Awaitable[None]]) -> None:
    """Let a builder live through a story, and leave whatever it started."""

    async def live() -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            vtpm = world.builder(tasks)
            await vtpm.adopt()
            await story(vtpm)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()  # as the death of a builder does

    asyncio.run(live())


async def code_of(asked: Awaitable[object]) -> str:
    try:
        await asked
    except TandemError as error:
        return error.code
    return ""


def test_it_is_started_once_and_the_next_is_not_the_first_of_its_boot(world: World) -> None:
    async def story(vtpm: OwnVtpm) -> None:
        # Given a vTPM that runs
        first = await vtpm.start()
        # When it is started again, beside itself and after its end
        beside = await code_of(vtpm.start())
        await vtpm.stop()
        second = await vtpm.start()
        # Then there is one at a time, and the second is measured as such
        assert beside == "TDM-HOST-VTPM-RUNNING"
        assert (first.first_of_boot, second.first_of_boot) == (True, False)
        assert first.launch_log != second.launch_log
        assert world.closed == [bytes([1]) * 16]
        assert {asked.hypervisor for asked in world.opened} == {"host"}

    play(world, story)


def test_it_does_not_start_from_a_library_whose_time_is_over(world: World) -> None:
    async def story(vtpm: OwnVtpm) -> None:
        # Given a library that has expired
        entries = {"host": {"kind": "build-once", "role": "host"}}
        over = "2020-01-01T00:00:00Z"
        signing.sign(world.paths.library, world.key, entries, expires=over)
        # When the host's own vTPM is started
        refused = await code_of(vtpm.start())
        # Then it is refused before the Manager hears of it, as a guest's is
        assert refused == "TDM-LIBRARY-EXPIRED"
        assert world.opened == []

    play(world, story)


def test_a_vtpm_that_refuses_its_state_says_so_and_leaves_nothing(world: World) -> None:
    async def story(vtpm: OwnVtpm) -> None:
        # Given a vTPM that will not open its state
        world.says = (BROKEN,)
        # When it is started, and then a good one
        refused = await code_of(vtpm.start())
        state, ended = world.state(), world.children[0].wait(5)
        world.says = (READY,)
        launch = await vtpm.start()
        # Then its reason is the error, process and launch are gone, and nothing has been first yet
        assert refused == "TDM-STATE-OLDER"
        assert (state, ended) == (FAILED, -signal.SIGKILL)
        assert bytes([1]) * 16 in world.closed
        assert launch.first_of_boot

    play(world, story)


def test_a_device_that_the_kernel_does_not_show_is_no_vtpm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_vtpm, "SHOWN_SECONDS", 0.2)

    async def story(vtpm: OwnVtpm) -> None:
        # Given a kernel that does not start the TPM
        world.shown = False
        # When the vTPM is started
        code = await code_of(vtpm.start())
        # Then the start fails, and the process is gone
        assert code == "TDM-HOST-VTPM-NOT-STARTED"
        assert world.children[0].wait(5) == -signal.SIGKILL
        assert world.state() == FAILED

    play(world, story)


def test_the_death_of_its_process_is_noticed_without_being_asked(world: World) -> None:
    async def story(vtpm: OwnVtpm) -> None:
        # Given a vTPM that runs
        await vtpm.start()
        # When its process is killed
        world.children[0].kill()
        while world.state() != ENDED or not world.closed:
            await asyncio.sleep(0.01)
        # Then it can be started, and cannot be stopped
        assert await code_of(vtpm.stop()) == "TDM-HOST-VTPM-NOT-RUNNING"
        assert await code_of(vtpm.start()) == ""

    play(world, story)


def test_the_next_builder_adopts_it(world: World) -> None:
    async def first(vtpm: OwnVtpm) -> None:
        await vtpm.start()

    async def second(vtpm: OwnVtpm) -> None:
        # When the next one begins
        alive = world.children[0].poll() is None
        beside = await code_of(vtpm.start())
        await vtpm.stop()
        # Then the vTPM lived on, is this builder's, and ends with it
        assert alive
        assert beside == "TDM-HOST-VTPM-RUNNING"
        assert world.children[0].wait(5) == -signal.SIGKILL
        assert world.state() == ENDED

    # Given a builder that dies with its vTPM running
    play(world, first)
    assert world.state() == RUNNING
    play(world, second)


def test_one_that_was_half_made_is_not_adopted(world: World) -> None:
    async def first(vtpm: OwnVtpm) -> None:
        await vtpm.start()
        newest, _ = await vtpm.newest()
        assert newest is not None
        vtpm._change(state=STARTING)

    async def second(vtpm: OwnVtpm) -> None:
        # When the next one begins
        # Then the vTPM is ended, and one that follows is not the first: it may have been used
        assert world.children[0].wait(5) == -signal.SIGKILL
        assert world.state() == ENDED
        assert not (await vtpm.start()).first_of_boot

    # Given a builder that died while it started the vTPM
    play(world, first)
    play(world, second)


def test_a_full_disk_does_not_end_the_builder_with_the_vtpm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(vtpm: OwnVtpm) -> None:
        # Given a vTPM that runs, on a disk that is full by now
        await vtpm.start()

        def full(_journal: OwnJournal, _launch: object) -> None:
            raise HostError("TDM-JOURNAL-UNWRITABLE", "no space left", hint="make room")

        monkeypatch.setattr(OwnJournal, "store", full)
        # When it ends
        await vtpm.stop()
        # Then the builder goes on
        newest, _ = await vtpm.newest()
        assert newest is not None
        assert newest.state == ENDED

    play(world, story)


def test_the_hosts_services_take_it_with_them(world: World) -> None:
    async def story(vtpm: OwnVtpm) -> None:
        # Given a vTPM that runs
        await vtpm.start()
        # When the builder is told to end, and told again
        await vtpm.end()
        await vtpm.end()
        # Then the vTPM was asked to end in order
        assert world.state() == ENDED
        with pytest.raises(Refused):
            await vtpm.stop()

    play(world, story)
