"""The builder attends the Manager: what lives rejoins it, before anything else is opened."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tandem import channel
from tandem.builder import attendance, manager_link
from tandem.builder.attendance import Attendance, Living
from tandem.builder.exchange import receive
from tandem.builder.manager_link import ManagerLink
from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused
from tandem.hypervisor.descriptors import Descriptors
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    Attend,
    Attended,
    PairRejoins,
    RejoinPair,
)
from tandem.wire.messages import failure
from tandem.wire.zygote_rpc import STATUS_REPORTS, STATUS_REQUESTS, NewKeyChannel
from tests.unit.manager.software_host import open_pair

NONCE = b"n" * 32
JOINED = failure(Refused("TDM-PAIR-JOINED", "it has one", hint="nothing"))
SECONDS = 10


class Manager:
    """Answers `RejoinPair` by pair id, and `Attend`; dies and comes back as it is told."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "manager.sock"
        self.refuses: set[bytes] = set()
        self.late: dict[bytes, float] = {}  # seconds that an answer takes, by pair id
        self.asked: list[object] = []
        self._server: asyncio.Task[None] | None = None
        self._listening: socket.socket | None = None
        self._channel: Channel | None = None

    def start(self) -> None:
        with Descriptors() as opened:
            at = opened.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            descriptor = opened.listen(at, self.path.name, socket.SOCK_SEQPACKET)
            self._listening = socket.socket(fileno=os.dup(descriptor))
        self._listening.setblocking(False)
        self._server = asyncio.create_task(self._serve(self._listening))

    def die(self) -> None:
        assert self._server is not None
        assert self._listening is not None
        self._server.cancel()
        self._listening.close()
        self.path.unlink()
        if self._channel is not None:
            self._channel.close()

    async def _serve(self, listening: socket.socket) -> None:
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        self._channel = Channel(sock, sends=BUILDER_ANSWERS, receives=BUILDER_REQUESTS)
        while True:
            try:
                asked, _ = await receive(self._channel)
            except Closed:
                return
            self.asked.append(asked)
            if isinstance(asked, RejoinPair):
                await asyncio.sleep(self.late.get(asked.pair_id, 0))
            if isinstance(asked, Attend):
                self._channel.send(Attended())
            elif isinstance(asked, RejoinPair) and asked.pair_id in self.refuses:
                self._channel.send(JOINED)
            else:
                ours, theirs = channel.pair()
                with ours, theirs, suppress(Closed):
                    self._channel.send(PairRejoins(nonce=NONCE), [theirs.fileno()])


def play(directory: Path, story: Callable[[Manager, ManagerLink, list[Living]], Awaitable[None]]
         ) -> None:  # fmt: skip
    """Let a builder attend a Manager through a story."""

    async def live() -> None:
        manager, living = Manager(directory), list[Living]()
        link = ManagerLink(manager.path)
        attending = asyncio.create_task(Attendance(link, lambda: living).run())
        async with asyncio.timeout(SECONDS):
            await story(manager, link, living)
        attending.cancel()

    asyncio.run(live())


def a_vtpm(number: int) -> tuple[Living, Channel]:
    """Give a vTPM as the builder knows it, and its own end of the status channel."""
    ours, theirs = channel.pair()
    status = Channel(ours, sends=STATUS_REQUESTS, receives=STATUS_REPORTS)
    vtpm = Channel(theirs, sends=STATUS_REPORTS, receives=STATUS_REQUESTS)
    return Living(pair_id=bytes([number]) * 16, vtpm=f"vtpm-{number}", status=status), vtpm


def test_what_lives_gets_a_key_channel_from_each_manager(tmp_path: Path) -> None:
    # Given two vTPMs that live, one of which the Manager knows still, and one that hears no more
    async def story(manager: Manager, link: ManagerLink, living: list[Living]) -> None:
        (first, vtpm), (second, other) = a_vtpm(1), a_vtpm(2)
        deaf = Living(pair_id=b"\3" * 16, vtpm="vtpm-3", status=None)
        living += [first, second, deaf]
        manager.refuses = {second.pair_id}
        for _ in range(2):
            # When a Manager comes, and dies
            manager.start()
            await link.attended.wait()
            message, descriptors = vtpm.receive(1)
            # Then the one that has no channel got one, and nothing else is in use
            assert message == NewKeyChannel(nonce=NONCE)
            os.close(descriptors[0])
            asked = [each.pair_id for each in manager.asked if isinstance(each, RejoinPair)]
            assert asked == [each.pair_id for each in living]
            assert manager.asked.pop() == Attend()
            manager.asked.clear()
            manager.die()
            while link.attended.is_set():
                await asyncio.sleep(0.01)
        other.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.receive()

    play(tmp_path, story)


def test_nothing_is_opened_that_the_manager_could_give_away_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a Manager that nobody has told yet what lives
    monkeypatch.setattr(manager_link, "ATTEND_SECONDS", 0.05)

    async def story(manager: Manager, link: ManagerLink, _: list[Living]) -> None:
        # When a pair is to be opened
        with pytest.raises(HostError) as error:
            await link.open_pair(open_pair("web"))
        # Then that waits, and says at last that there is none
        assert error.value.code == "TDM-MANAGER-ABSENT"
        assert manager.asked == []

    play(tmp_path, story)


def test_a_late_key_channel_is_never_another_vtpms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two vTPMs, and a Manager that answers for the first when nobody waits for it any more
    monkeypatch.setattr(attendance, "SECONDS", 0.2)

    async def story(manager: Manager, _: ManagerLink, living: list[Living]) -> None:
        (first, vtpm), (second, other) = a_vtpm(1), a_vtpm(2)
        living += [first, second]
        manager.late = {first.pair_id: 0.3}
        # When the builder attends it
        manager.start()
        await asyncio.sleep(0.6)
        # Then nobody gets that answer's key channel
        for each in (vtpm, other):
            each.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.receive_any()

    play(tmp_path, story)
