"""The builder's socket: requests of the command line, from root on this host alone."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from asyncio import TaskGroup
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from tandem.builder.description import brief, full, own
from tandem.builder.exchange import closed_by_peer, receive
from tandem.builder.feed import Feed
from tandem.builder.own_vtpm import OwnVtpm
from tandem.builder.pair import Order, Pair
from tandem.builder.supervisor import Supervisor, short_of
from tandem.channel import Channel, Closed
from tandem.errors import Refused, TandemError, UsageError
from tandem.evidence.host_plan import HOST
from tandem.log import get_logger
from tandem.values import checked_name
from tandem.wire.builder_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    AskEndings,
    AskEvents,
    AskGuests,
    AskHostVtpm,
    AttachAttester,
    AttachConsole,
    AttachDebugger,
    Attached,
    Events,
    Guests,
    GuestStopped,
    HostVtpm,
    PauseGuest,
    Progress,
    RestartGuest,
    ResumeGuest,
    StartGuest,
    StartHostVtpm,
    StopGuest,
    StopHostVtpm,
)
from tandem.wire.messages import Message, failure

Value = TypeVar("Value")
CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))
log = get_logger("builder")
PAGE: Final = 100  # pairs in one message
SHORT_SECONDS: Final = 0.1  # before another look whether the system has a descriptor left


class Service:
    """Answers each connection's requests, one after the other."""

    def __init__(
        self, supervisor: Supervisor, own_vtpm: OwnVtpm, library: Path, feed: Feed
    ) -> None:
        self._supervisor = supervisor
        self._feed = feed
        self._own_vtpm = own_vtpm
        self._library = library  # the host's own, where a request names none

    async def accept(self, listening: socket.socket) -> None:
        """Take connections until cancelled; one that is not root's is closed unread."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        async with TaskGroup() as connections:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listening)
                except OSError as error:  # too many open files, say: whoever connects waits
                    log.warning("builder.not-accepted", problem=error.strerror)
                    await asyncio.sleep(SHORT_SECONDS)
                    continue
                if _peer_uid(sock) == 0:
                    connections.create_task(self._serve(sock))
                else:
                    sock.close()

    async def _serve(self, sock: socket.socket) -> None:
        """Answer until the other side closes; one that does not read its answers is dropped."""
        channel = Channel(sock, sends=BUILDER_ANSWERS, receives=BUILDER_REQUESTS)
        with sock:
            try:
                while True:
                    await self._answer_one(channel)
            except (Closed, BlockingIOError):
                return

    async def _answer_one(self, channel: Channel) -> None:
        try:
            request, descriptors = await receive(channel)
            if descriptors:
                raise Closed
            await self._answer(request, channel)
        except TandemError as error:
            channel.send(failure(error))
        except BlockingIOError:
            raise  # whoever asked does not read
        except OSError as error:
            channel.send(failure(short_of(error)))

    async def _answer(self, request: Message, channel: Channel) -> None:
        match request:
            case StartGuest():
                await self._start(request, channel)
            case StopGuest(name=name, kill=kill, seconds=seconds):
                pair = self._supervisor.pair(checked_name(name, "guest"))
                await self._supervisor.stop(pair, kill=kill, seconds=seconds)
                channel.send(GuestStopped(name=name))
            case PauseGuest(name=name):
                await self._supervisor.pause(self._pair(name))
                self._tell_guests(name, channel)
            case ResumeGuest(name=name):
                await self._supervisor.resume(self._pair(name))
                self._tell_guests(name, channel)
            case RestartGuest(name=name, seconds=seconds):
                await self._restart(self._pair(name), seconds, channel)
            case _:
                await self._answer_about(request, channel)

    async def _answer_about(self, request: Message, channel: Channel) -> None:
        """Answer what changes no pair."""
        match request:
            case AskGuests(name=name):
                self._tell_guests(name, channel)
            case AskEndings():
                _tell([each.as_record() for each in self._supervisor.endings()], channel)
            case AskEvents():
                await self._tell_events(request, channel)
            case AttachConsole(name=name):
                guest = self._supervisor.pair(checked_name(name, "guest")).running_guest()
                _attach(channel, await guest.connect_console())
            case AttachAttester(name=name):
                guest = self._supervisor.pair(checked_name(name, "guest")).running_guest()
                _attach(channel, await guest.connect_attester())
            case AttachDebugger(name=name):
                guest = self._pair(name).running_guest()
                log.warning("guest.debugged", guest=name)
                _attach(channel, await guest.connect_debugger())
            case _:
                await self._answer_for_host(request, channel)

    async def _answer_for_host(self, request: Message, channel: Channel) -> None:
        """Answer what concerns the host's own vTPM; each answer is where it stands then."""
        match request:
            case StartHostVtpm():
                await self._own_vtpm.start()
            case StopHostVtpm():
                await self._own_vtpm.stop()
            case AskHostVtpm():
                pass
            case _:
                raise UsageError(
                    "TDM-REQUEST-UNKNOWN", "the builder is asked nothing", hint="ask something"
                )
        shown = own(*await self._own_vtpm.newest())
        channel.send(HostVtpm(vtpm=json.dumps(shown).encode("ascii")))

    def _tell_guests(self, name: str, channel: Channel) -> None:
        """Tell all about one pair, or of every pair in brief."""
        if name:
            pair = self._supervisor.pair(checked_name(name, "guest"))
            channel.send(_guests([full(pair)], more=False))
            return
        _tell([brief(pair) for pair in self._supervisor.pairs()], channel)

    def _pair(self, name: str) -> Pair:
        return self._supervisor.pair(checked_name(name, "guest"))

    async def _tell_events(self, request: AskEvents, channel: Channel) -> None:
        """Tell what happened, or what happens next; whoever goes away is not waited for."""
        page = self._feed.after(request.after)
        if request.wait and not page.lines:
            gone = asyncio.create_task(closed_by_peer(channel.sock))
            try:
                page = await _unless(gone, self._feed.beyond(request.after))
            finally:
                gone.cancel()
                await asyncio.wait((gone,))  # it would take the next request's reader away
        channel.send(Events(lines=page.lines, last=page.last, missed=page.missed, more=page.more))

    async def _start(self, request: StartGuest, channel: Channel) -> None:
        """Start a guest, tell of each step; whoever asked and goes away gives it up."""
        manifest = Path(request.manifest) if request.manifest else self._library
        if not manifest.is_absolute():
            raise UsageError(
                "TDM-LIBRARY-PATH",
                f"the library's path {request.manifest[:200]!a} is not absolute",
                hint="give the whole path",
            )
        if request.name == HOST:
            raise Refused(
                "TDM-GUEST-NAME-RESERVED",
                f"{HOST} is the name of the host's own vTPM",
                hint="give the guest another name",
            )
        order = Order(
            guest=checked_name(request.name, "guest"),
            entry=checked_name(request.entry, "entry"),
            manifest=manifest,
            keys=request.keys,
        )
        pair = self._supervisor.start(order)
        try:
            await _tell_steps(pair, channel)
        except (Closed, BlockingIOError):
            if not pair.running.is_set():
                await self._supervisor.stop(pair, kill=True, seconds=0)
            raise

    async def _restart(self, pair: Pair, seconds: int, channel: Channel) -> None:
        """Restart a guest and tell of each step; the guest was there before whoever asked."""
        gone = asyncio.create_task(closed_by_peer(channel.sock))
        try:
            successor = await _unless(gone, self._supervisor.restart(pair, seconds=seconds))
        finally:
            gone.cancel()
            await asyncio.wait((gone,))  # it would take the next request's reader away
        await _tell_steps(successor, channel)


async def _tell_steps(pair: Pair, channel: Channel) -> None:
    """Tell of each step of a start, then of the pair; Closed when whoever asked goes away."""
    gone = asyncio.create_task(closed_by_peer(channel.sock))
    try:
        while (step := await _unless(gone, pair.steps.get())) is not None:
            channel.send(Progress(step=step[0], microseconds=step[1]))
    finally:
        gone.cancel()
        await asyncio.wait((gone,))  # it would take the next request's reader away
    if not pair.running.is_set():
        raise pair.why_not_running()
    channel.send(_guests([full(pair)], more=False))


def _tell(shown: list[dict[str, object]], channel: Channel) -> None:
    """Tell a list in as many messages as it takes."""
    for start in range(0, max(len(shown), 1), PAGE):
        more = start + PAGE < len(shown)
        channel.send(_guests(shown[start : start + PAGE], more=more))


def _peer_uid(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    uid: int = CREDENTIALS.unpack(credentials)[1]
    return uid


async def _unless(gone: asyncio.Task[None], wanted: Coroutine[Any, Any, Value]) -> Value:
    """Wait for what is wanted; Closed when whoever asked is gone before."""
    waiting = asyncio.create_task(wanted)
    await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        raise Closed
    return waiting.result()


def _guests(pairs: list[dict[str, object]], *, more: bool) -> Guests:
    return Guests(pairs=json.dumps(pairs).encode("ascii"), more=more)


def _attach(channel: Channel, connection: socket.socket) -> None:
    with connection:
        channel.send(Attached(), [connection.fileno()])
