"""swtpm's control channel in the hands of whoever reaches its socket: no hypervisor needed."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Final, Self

from peers.shared_swtpm import receive
from tandem.wire.control import RESPONSE_SIZES, Command, NeedMore, Request, parse_request

ANSWER_SECONDS: Final = 10.0
CAPABILITIES: Final = 0xFFFF  # of swtpm 0.7.1
HIDDEN: Final = (Command.INIT, Command.STOP, Command.SHUTDOWN)
OK: Final = bytes(4)


class SwtpmControl:
    """A connection to the control socket of a running swtpm."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(ANSWER_SECONDS)
        self._sock.connect(str(path))
        self._data: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        if self._data is not None:
            self._data.close()

    def ask(self, command: Command, *fields: int, data: bytes = b"", descriptor: int = -1) -> bytes:
        """Send a request, and read the fixed part of its answer."""
        request = Request(command=command, fields=fields, data=data).encode()
        socket.send_fds(self._sock, [request], [descriptor] if descriptor >= 0 else [])
        return self._sock.recv(RESPONSE_SIZES.get(command, 4), socket.MSG_WAITALL)

    def state(self, kind: int) -> bytes:
        """Read a state blob (1: permanent, 2: volatile), decrypted, as a migration does."""
        head = self.ask(Command.GET_STATEBLOB, 1, kind, 0)
        size = int.from_bytes(head[12:16])
        return self._sock.recv(size, socket.MSG_WAITALL)

    def transceive(self, command: bytes) -> bytes:
        """Send a TPM command on a data connection of our own."""
        if self._data is None:
            self._data, theirs = socket.socketpair()
            self._data.settimeout(ANSWER_SECONDS)
            with theirs:
                if self.ask(Command.SET_DATAFD, descriptor=theirs.fileno()) != OK:
                    raise ConnectionRefusedError("swtpm has a data connection already")
        self._data.sendall(command)
        return receive(self._data)


class ResetHider:
    """A control socket that a QEMU is given; behind it is a swtpm, which learns of no reset.

    Whoever owns the path between a hypervisor and its swtpm can stand there: what would reset the
    registers is answered and not passed on.
    """

    def __init__(self, path: Path, swtpm: SwtpmControl) -> None:
        self._swtpm = swtpm
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, self._listening:
            buffer = b""
            while True:
                data, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
                if not data:
                    return
                buffer += data
                while not isinstance(parsed := parse_request(buffer), NeedMore):
                    request, used = parsed
                    buffer = buffer[used:]
                    connection.sendall(self._answer(request, descriptors))
                    descriptors = []

    def _answer(self, request: Request, descriptors: list[int]) -> bytes:
        if request.command in HIDDEN:
            return OK
        # A size is asked for and not set, which a running swtpm refuses.
        fields = (0,) if request.command is Command.SET_BUFFERSIZE else request.fields
        try:
            return self._swtpm.ask(
                request.command, *fields, descriptor=descriptors[0] if descriptors else -1
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
