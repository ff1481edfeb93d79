"""The broker's one way to the pTPM: raw commands to the Manager's gate, one at a time."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Final

from tandem.errors import HostError
from tandem.wire.manager_rpc import CHANNEL_LIMIT

SLICE_SECONDS: Final = 1
TIMEVAL: Final = struct.Struct("ll")  # struct timeval: seconds, microseconds


class ManagerGone(HostError):
    """The Manager closed the channel, or ended: nothing of the broker's is left in the pTPM."""

    def __init__(self) -> None:
        super().__init__(
            "TDM-BROKER-MANAGER-GONE",
            "the Manager closed the broker's channel to the pTPM",
            hint="see the Manager's log; start the host's services again",
        )


class ManagerChannel:
    """A SOCK_SEQPACKET socket that carries one command or one response in each packet."""

    def __init__(self, sock: socket.socket, waiting: Callable[[], None] = lambda: None) -> None:
        self._sock = sock
        # The kernel's own timeout: Python's would ask before each call whether it may be made.
        self._sock.setblocking(True)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEVAL.pack(SLICE_SECONDS, 0))
        self._waiting = waiting

    def execute(self, command: bytes) -> bytes:
        """Give the gate's response to a command, however long the pTPM takes.

        `waiting` is called about once a second meanwhile.
        """
        try:
            self._sock.send(command)
            response = self._receive()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ManagerGone from error
        if not response:
            raise ManagerGone
        return response

    def _receive(self) -> bytes:
        while True:
            try:
                return self._sock.recv(CHANNEL_LIMIT)
            except BlockingIOError:
                self._waiting()

    def fileno(self) -> int:
        """Give the descriptor; readable while no command is under way, the Manager is gone."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the channel; the Manager flushes what is left."""
        self._sock.close()
