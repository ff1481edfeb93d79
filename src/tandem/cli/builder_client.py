"""The domain builder, asked from the command line."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tandem.channel import Channel, Closed, expect
from tandem.cli.connection import Connection
from tandem.errors import HostError
from tandem.hypervisor.descriptors import connect
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
from tandem.wire.messages import Message

RUN: Final = "run"
SOCKET: Final = "builder.sock"
ABSENT: Final = "TDM-BUILDER-ABSENT"
GONE: Final = "TDM-BUILDER-GONE"
Pairs = list[dict[str, Any]]


class BuilderClient(Connection):
    """A connection to the builder; closing it gives up what was begun."""

    def __init__(self, host: Path) -> None:
        try:
            sock = connect(host / RUN, SOCKET, kind=socket.SOCK_SEQPACKET)
        except OSError as error:
            raise HostError(
                ABSENT,
                f"the domain builder of {host} cannot be asked: {error.strerror}",
                hint="start the host's services with `sudo tandem host up`, and ask as root",
            ) from error
        super().__init__(Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS))

    def start(
        self, request: StartGuest | RestartGuest, on_step: Callable[[str, int], None]
    ) -> Pairs:
        """Start a guest, or again; `on_step` is told of each step and its microseconds."""
        self._send(request)
        while isinstance(reply := self._receive(), Progress):
            on_step(reply.step, reply.microseconds)
        return _pairs(expect(reply, Guests))

    def stop(self, request: StopGuest) -> None:
        """Stop a guest; returns when it and its vTPM are gone."""
        self._send(request)
        expect(self._receive(), GuestStopped)

    def hold(self, request: PauseGuest | ResumeGuest) -> Pairs:
        """Pause a guest or let it go on; gives its pair once that is done."""
        self._send(request)
        return _pairs(expect(self._receive(), Guests))

    def guests(self, name: str = "") -> Pairs:
        """Give every pair in brief, or all about the one of guest `name`."""
        return self._listed(AskGuests(name=name))

    def endings(self) -> Pairs:
        """Give how the newest pair of each guest ended."""
        return self._listed(AskEndings())

    def _listed(self, request: AskGuests | AskEndings) -> Pairs:
        self._send(request)
        found: Pairs = []
        while True:
            page = expect(self._receive(), Guests)
            found += _pairs(page)
            if not page.more:
                return found

    def events(self, after: int) -> Events:
        """Give the oldest events after number `after`; none is no reason to wait."""
        self.ask_events(after, wait=False)
        return self.take_events()

    def ask_events(self, after: int, *, wait: bool) -> None:
        """Ask for the oldest events after number `after`; the answer is there once it is read."""
        self._send(AskEvents(after=after, wait=wait))

    def take_events(self) -> Events:
        """Read the answer to `ask_events`."""
        return expect(self._receive(), Events)

    def host_vtpm(self, request: StartHostVtpm | StopHostVtpm | AskHostVtpm) -> dict[str, Any]:
        """Start, stop or ask for the host's own vTPM; give where it stands then."""
        self._send(request)
        shown: dict[str, Any] = json.loads(expect(self._receive(), HostVtpm).vtpm)
        return shown

    def attach(self, request: AttachConsole | AttachAttester | AttachDebugger) -> socket.socket:
        """Connect to a port of a running guest."""
        self._send(request)
        reply, descriptors = self._receive_any()
        if len(descriptors) == 1 and isinstance(reply, Attached):
            return socket.socket(fileno=descriptors[0])
        for descriptor in descriptors:
            os.close(descriptor)
        expect(reply, Attached)
        raise self._gone()

    def _send(self, message: Message) -> None:
        try:
            self._channel.send(message)
        except Closed as error:
            raise self._gone() from error

    def _receive(self) -> Message:
        try:
            return self._channel.receive()[0]
        except Closed as error:
            raise self._gone() from error

    def _receive_any(self) -> tuple[Message, list[int]]:
        try:
            return self._channel.receive_any()
        except Closed as error:
            raise self._gone() from error

    def _gone(self) -> HostError:
        return HostError(
            GONE,
            "the domain builder closed the connection",
            hint="it takes requests of root alone; see whether it runs: tandem host status",
        )


def _pairs(page: Guests) -> Pairs:
    pairs: Pairs = json.loads(page.pairs)
    return pairs
