"""The control thread: swtpm's control channel as far as QEMU 7.2 uses it, the builder's requests,
and the end of the pair, whoever causes it.

It never touches the engine (but for cancelling a command), so it answers at once, whatever a
guest's command waits for.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tandem.errors import UntrustedInput
from tandem.vtpm.builder_line import BuilderLine, close_all
from tandem.vtpm.handover import Handover
from tandem.vtpm.session import Act
from tandem.vtpm.shared_session import SharedSession
from tandem.vtpm.watch import Source, Watch
from tandem.wire.control import (
    MAX_STATE_BLOB,
    Command,
    NeedMore,
    Request,
    Result,
    encode_refusal,
    parse_request,
)
from tandem.wire.zygote_rpc import EndVtpm, GuestStarted

READ_SIZE: Final = 4096
MAX_BUFFER: Final = MAX_STATE_BLOB + READ_SIZE
CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))
ANCILLARY_SPACE: Final = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(16)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why a pair ends, as a stable code and in words."""

    code: str
    reason: str


GUEST_GONE: Final = Ending(code="TDM-VTPM-GUEST-GONE", reason="the hypervisor's process ended")
HUNG_UP: Final = Ending(code="TDM-VTPM-HUNG-UP", reason="the hypervisor closed its channel")
SHUT_DOWN: Final = Ending(code="TDM-VTPM-SHUT-DOWN", reason="the hypervisor asked for the end")
END_ASKED: Final = Ending(code="TDM-VTPM-END-ASKED", reason="the builder asked for the end")
BUILDER_GONE: Final = Ending(
    code="TDM-VTPM-BUILDER-GONE", reason="the builder ended before the pair was whole"
)
RESET: Final = Ending(
    code="TDM-VTPM-RESET-REFUSED",
    reason="the hypervisor initialized the TPM again under a live guest; a reboot is a new pair",
)
STRANGER: Final = Ending(
    code="TDM-VTPM-STRANGER", reason="a second process spoke on the hypervisor's channel"
)
BROKEN: Final = Ending(
    code="TDM-VTPM-BROKEN", reason="the vTPM met a defect of its own; the builder's log shows it"
)


class ControlServer:
    """Serves one hypervisor and one builder until the pair ends.

    The control socket has SO_PASSCRED, so every request says which process sent it (SO_PEERCRED of
    a socketpair names only who made the pair).
    """

    def __init__(
        self,
        control: socket.socket,
        line: BuilderLine,
        shared: SharedSession,
        connection: Handover[socket.socket | None],
        cancel: Callable[[], None],
    ) -> None:
        self._control = control
        self._line = line
        self._shared = shared
        self._connection = connection
        self._cancel = cancel
        self._watch = Watch()
        self._watch.add(Source.CONTROL, control.fileno())
        line.watch(self._watch)
        self._buffer = b""
        self._offered: list[int] = []  # descriptors that came and were not taken yet
        self._sender: int | None = None
        self.data: socket.socket | None = None

    def run(self, commands_ended: int) -> Ending:
        """Serve until something ends the pair; `commands_ended` is the data thread's eventfd."""
        self._watch.add(Source.COMMANDS, commands_ended)
        answers = {
            Source.GUEST: lambda: GUEST_GONE,
            Source.COMMANDS: lambda: HUNG_UP,
            Source.STATUS: self._hear_builder,
            Source.DOOR: self._line.open_door,
            Source.CONTROL: self._hear_hypervisor,
        }
        while True:
            for source in self._watch.wait():
                ending = answers[source]()
                if ending is not None:
                    return ending

    def _hear_builder(self) -> Ending | None:
        watched = self._shared.guest_watched.done
        heard = self._line.hear()
        if heard is None:  # the builder is gone; its whole pairs live on, a half-made one does not
            return None if watched else BUILDER_GONE
        message, descriptors = heard
        match message:
            case GuestStarted() if len(descriptors) == 1 and not watched:
                self._watch.add(Source.GUEST, descriptors[0])
                self._shared.guest_watched.give(None)
            case EndVtpm():
                return END_ASKED
            case _:
                close_all(descriptors)
        return None

    def _hear_hypervisor(self) -> Ending | None:
        try:
            data, ancillary, _, _ = self._control.recvmsg(
                READ_SIZE, ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return HUNG_UP
        if not data:
            return HUNG_UP
        if not self._same_sender(ancillary):
            return STRANGER
        self._buffer += data
        try:
            return self._serve_buffer()
        except UntrustedInput as refusal:
            return Ending(code=refusal.code, reason=refusal.problem)

    def _same_sender(self, ancillary: list[tuple[int, int, bytes]]) -> bool:
        """Take the descriptors that came; tell whether it is the process that always spoke.

        A process outside of this vTPM's PID namespace has number 0 here, and is nobody's guest.
        """
        sender = self._sender
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                sender = CREDENTIALS.unpack(content)[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                came = array.array("i")
                came.frombytes(content[: len(content) - len(content) % came.itemsize])
                self._offered += came
        if self._sender is None:
            self._sender = sender
        return sender == self._sender and sender != 0

    def _serve_buffer(self) -> Ending | None:
        while self._buffer:
            parsed = parse_request(self._buffer)
            if isinstance(parsed, NeedMore):
                break
            request, used = parsed
            self._buffer = self._buffer[used:]
            ending = self._serve(request)
            if ending is not None:
                return ending
        return None

    def _serve(self, request: Request) -> Ending | None:
        offered, self._offered = self._offered, []
        if len(offered) != (request.command is Command.SET_DATAFD):
            for descriptor in offered:
                os.close(descriptor)
            return self._reply(encode_refusal(request.command, Result.BAD_PARAMETER))
        step = self._shared.decide(request)
        if step.act is Act.CONNECT:
            self.data = socket.socket(fileno=offered.pop())
            self._connection.give(self.data)
        for descriptor in offered:
            os.close(descriptor)
        if step.act is Act.CANCEL:
            self._cancel()
        ending = self._reply(step.answer)
        match step.act:
            case Act.END:
                return SHUT_DOWN
            case Act.END_RESET:
                return RESET
            case _:
                return ending

    def _reply(self, answer: bytes) -> Ending | None:
        try:
            self._control.sendall(answer)
        except (BrokenPipeError, ConnectionResetError):
            return HUNG_UP
        return None
