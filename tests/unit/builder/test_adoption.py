"""A new builder takes up what it finds: no pair waits for another, and no slot is given twice."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tandem.builder import supervisor
from tandem.builder.actions import Actions
from tandem.builder.directories import Directories
from tandem.builder.journal import Journal, PairEntry
from tandem.builder.lifecycle import State
from tandem.builder.measure import Builder
from tandem.builder.pair import Order, new_pair
from tandem.builder.supervisor import Supervisor
from tandem.errors import HostError
from tandem.hypervisor.driver import End
from tandem.hypervisor.process import Process, start_time

NONE = cast(Any, None)
WAIT_SECONDS = 10.0


class Machine:
    """A guest whose hypervisor answers."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def resume(self) -> None:
        pass

    async def wait(self) -> End:
        await self.process.wait()
        return End.GONE


class World:
    """A host's processes, and the driver, Manager and library that a builder finds there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directories = Directories(root / "pairs", root / "vtpm")
        self.journal = Journal(root / "journal")
        self.children: list[subprocess.Popen[bytes]] = []
        self.hanging: set[int] = set()
        self.slow: set[int] = set()

    def leave(self, guest: str, number: int, slot: int, state: State = State.RUNNING) -> PairEntry:
        """Leave a pair as a builder that died did."""
        order = Order(guest=guest, entry=guest, manifest=self.root / "library", keys=())
        vtpm, hypervisor = (subprocess.Popen(["/bin/sleep", "60"]) for _ in range(2))
        self.children += [vtpm, hypervisor]
        entry = replace(
            new_pair(order, slot).entry,
            state=state.value,
            pair_id=bytes([number]).hex() * 16,
            vtpm_pid=vtpm.pid,
            vtpm_start_time=start_time(vtpm.pid) or 0,
            hypervisor_pid=hypervisor.pid,
            hypervisor_start_time=start_time(hypervisor.pid) or 0,
        )
        self.journal.store(entry)
        return entry

    async def adopt(self, _: Path, process: Process) -> Machine:
        if process.pid in self.hanging:
            await asyncio.Event().wait()
        if process.pid in self.slow:
            await asyncio.sleep(0.5)
        return Machine(process)

    def last_end(self, _: Path) -> End:
        return End.GONE

    async def close_pair(self, _: bytes) -> None:
        raise HostError("TDM-MANAGER-ABSENT", "there is none", hint="none")

    def builder(self, tasks: asyncio.TaskGroup) -> Supervisor:
        actions = Actions(
            builder=Builder(version="0.1.0", digest=bytes(32)),
            hypervisor=cast(Any, self),
            keys=self.root / "keys",
            inputs=NONE,
            directories=self.directories,
            journal=self.journal,
            manager=cast(Any, self),
            zygote=NONE,
            watch=tasks.create_task,
        )
        return Supervisor(actions, tasks)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for child in world.children:
        child.kill()
        child.wait()


class Over(Exception):
    """The story is over."""


def play(world: World, story: Any) -> None:
    async def live() -> None:
        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
            await story(world.builder(tasks))
            raise Over

    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(live())
    assert ended.group_contains(Over)


def test_a_hypervisor_that_hangs_is_ended_and_holds_up_no_other_pair(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three pairs that lost their builder, the hypervisors of two of which hang
    monkeypatch.setattr(supervisor, "ADOPT_SECONDS", 0.5)
    hung = [world.leave("a", 1, 0), world.leave("b", 2, 1)]
    world.leave("c", 3, 2)
    world.hanging = {each.hypervisor_pid for each in hung}

    async def story(builder: Supervisor) -> None:
        # When the next builder adopts
        began = asyncio.get_running_loop().time()
        await builder.adopt()
        took = asyncio.get_running_loop().time() - began
        # Then it has the third, after the time that one of the others has
        assert [each.guest_name for each in builder.pairs()] == ["c"]
        assert took < 0.95
        assert not any(os.path.exists(f"/proc/{each.hypervisor_pid}/exe") for each in hung)

    play(world, story)


def test_a_guest_that_comes_again_gets_no_slot_of_a_pair_that_is_still_being_adopted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a guest that was being started again, and a pair whose hypervisor answers late
    monkeypatch.setattr(supervisor, "SHORTEST_LIFE", 0.1)
    world.leave("again", 1, 5, State.REBOOTING)
    slow = world.leave("slow", 2, 0)
    world.slow = {slow.hypervisor_pid}

    async def story(builder: Supervisor) -> None:
        # When the next builder adopts, and starts that guest
        slots: dict[str, int] = {}
        monkeypatch.setattr(
            builder, "start", lambda order: slots.update({order.guest: builder._free_slot()})
        )
        await builder.adopt()
        while not slots:
            await asyncio.sleep(0.01)
        # Then the two run as different users
        assert builder.pair("slow").entry.slot == 0
        assert slots == {"again": 1}

    play(world, story)
