"""The builder's socket: requests of the command line, from root on this host alone."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from asyncio import TaskGroup
from pathlib import Path
from typing import Final

from tandem.builder.description import brief, full, own
from tandem.builder.exchange import closed_by_peer, receive
from tandem.builder.own_vtpm import OwnVtpm
from tandem.builder.pair import Order, Pair
from tandem.builder.supervisor import Supervisor
from tandem.channel import Channel, Closed
from tandem.errors import Refused, TandemError, UsageError
from tandem.evidence.host_plan import HOST
from tandem.values import checked_name
from tandem.wire.builder_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    AskGuests,
    AskHostVtpm,
    AttachAttester,
    AttachConsole,
    Attached,
    Guests,
    GuestStopped,
    HostVtpm,
    Progress,
    StartGuest,
    StartHostVtpm,
    StopGuest,
    StopHostVtpm,
)
from tandem.wire.messages import Message, failure

CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))
PAGE: Final = 100  # pairs in one message


class Service:
    """Answers each connection's requests, one after the other."""

    def __init__(self, supervisor: Supervisor, own_vtpm: OwnVtpm, library: Path) -> None:
        self._supervisor = supervisor
        self._own_vtpm = own_vtpm
        self._library = library  # the host's own, where a request names none

    async def accept(self, listening: socket.socket) -> None:
        """Take connections until cancelled; one that is not root's is closed unread."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        async with TaskGroup() as connections:
            while True:
                sock, _ = await loop.sock_accept(listening)
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

    async def _answer(self, request: Message, channel: Channel) -> None:
        match request:
            case StartGuest():
                await self._start(request, channel)
            case StopGuest(name=name, kill=kill, seconds=seconds):
                pair = self._supervisor.pair(checked_name(name, "guest"))
                await self._supervisor.stop(pair, kill=kill, seconds=seconds)
                channel.send(GuestStopped(name=name))
            case AskGuests(name=name) if name:
                pair = self._supervisor.pair(checked_name(name, "guest"))
                channel.send(_guests([full(pair)], more=False))
            case AskGuests():
                pairs = [brief(pair) for pair in self._supervisor.pairs()]
                for start in range(0, max(len(pairs), 1), PAGE):
                    more = start + PAGE < len(pairs)
                    channel.send(_guests(pairs[start : start + PAGE], more=more))
            case AttachConsole(name=name):
                guest = self._supervisor.pair(checked_name(name, "guest")).running_guest()
                _attach(channel, await guest.connect_console())
            case AttachAttester(name=name):
                guest = self._supervisor.pair(checked_name(name, "guest")).running_guest()
                _attach(channel, await guest.connect_attester())
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
        gone = asyncio.create_task(closed_by_peer(channel.sock))
        try:
            while (step := await _next_step(pair, gone)) is not None:
                channel.send(step)
        except (Closed, BlockingIOError):
            await self._supervisor.stop(pair, kill=True, seconds=0)
            raise
        finally:
            gone.cancel()
            await asyncio.wait((gone,))  # it would take the next request's reader away
        if not pair.running.is_set():
            raise pair.why_not_running()
        channel.send(_guests([full(pair)], more=False))


def _peer_uid(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    uid: int = CREDENTIALS.unpack(credentials)[1]
    return uid


async def _next_step(pair: Pair, gone: asyncio.Task[None]) -> Progress | None:
    """Wait for a step of the start; None after the last one, Closed when nobody waits any more."""
    step = asyncio.create_task(pair.steps.get())
    await asyncio.wait((step, gone), return_when=asyncio.FIRST_COMPLETED)
    if not step.done():
        step.cancel()
        raise Closed
    found = step.result()
    return None if found is None else Progress(step=found[0], microseconds=found[1])


def _guests(pairs: list[dict[str, object]], *, more: bool) -> Guests:
    return Guests(pairs=json.dumps(pairs).encode("ascii"), more=more)


def _attach(channel: Channel, connection: socket.socket) -> None:
    with connection:
        channel.send(Attached(), [connection.fileno()])
