"""The data thread: one guest's TPM commands, one at a time, in the only thread on the engine.

A command that is nothing special costs the engine's time, two system calls and one look-up.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Final

from tandem.vtpm.libtpms import MAX_COMMAND, Engine
from tandem.vtpm.session import LIVE, Session
from tandem.vtpm.shared_session import SharedSession
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import HEADER, Rc

Handler = Callable[[bytes], bytes | memoryview]
NEVER_WHOLE: Final = -1  # stands for the code of a command that stayed incomplete
SIZE_AND_CODE: Final = struct.Struct(">2xII")
REST_MILLISECONDS: Final = 500  # in which swtpm too wants the rest of a command
WRONG_SIZE: Final = tpm.response(Rc.COMMAND_SIZE)
NOT_RUNNING: Final = tpm.response(Rc.FAILURE)  # what QEMU expects before INIT


class CommandServer:
    """Serves the commands of one guest over its one data connection."""

    def __init__(
        self,
        engine: Engine,
        shared: SharedSession,
        special: Mapping[int, Handler],
        save: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._shared = shared
        self._special = {**special, NEVER_WHOLE: _wrong_size}
        self._save = save

    def serve(self, connection: socket.socket) -> None:
        """Answer commands until the hypervisor closes the connection."""
        engine, shared = self._engine, self._shared
        inbox, outbox, outbox_size = engine.inbox, engine.outbox, engine.outbox_size
        receive, process, send = connection.recv_into, engine.process_inbox, connection.sendall
        unpack = SIZE_AND_CODE.unpack_from
        session: Session | None = None
        while length := receive(inbox):
            if shared.current is not session:
                session = shared.current
                special_for = self._take_up(session)
            size, code = unpack(inbox)
            if size != length:
                length = self._gather(connection, length)
                _, code = unpack(inbox) if length else (0, NEVER_WHOLE)
            special = special_for(code)
            if special is not None:
                send(self._answer(special, bytes(inbox[:length])))
                continue
            if status := process(length):
                engine.checked("Process", status)
            if engine.changed:
                self._save()
            send(outbox[: outbox_size[0]])

    def _answer(self, special: Handler, command: bytes) -> bytes | memoryview:
        answer = special(command)
        if self._engine.changed:
            self._save()
        return answer

    def _take_up(self, session: Session) -> Callable[[int], Handler | None]:
        """Give what finds the special commands in this session; without INIT, all are special."""
        if session.phase not in LIVE:
            return lambda _code: _not_running
        self._engine.locality = session.locality
        self._engine.set_buffer_size(session.buffer_size)
        return self._special.get

    def _gather(self, connection: socket.socket, length: int) -> int:
        """Wait for the rest of a command that came in pieces; 0 where it never becomes whole."""
        inbox = memoryview(self._engine.inbox)
        waiting = select.poll()
        waiting.register(connection, select.POLLIN)
        while length < MAX_COMMAND and waiting.poll(REST_MILLISECONDS):
            more = connection.recv_into(inbox[length:])
            length += more
            size = SIZE_AND_CODE.unpack_from(inbox)[0] if length >= HEADER.size else MAX_COMMAND
            if not more or size <= length:
                return length if size == length else 0
        return 0


def _not_running(_command: bytes) -> bytes:
    return NOT_RUNNING


def _wrong_size(_command: bytes) -> bytes:
    return WRONG_SIZE
