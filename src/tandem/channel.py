"""One side of a connection between two Tandem processes: messages and descriptors, whole or not.

Unix SOCK_SEQPACKET keeps message borders, so there is no framing to get wrong and no half message.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Final, TypeVar

from tandem.errors import HostError, UntrustedInput
from tandem.wire.messages import Failed, Message, MessageSet

Answer = TypeVar("Answer")
MAX_DESCRIPTORS: Final = 64  # a hypervisor takes a dozen, one for each ROM, and one for each disk
_INT_SIZE: Final = array.array("i").itemsize


class Closed(Exception):
    """The other side closed the connection."""


class Channel:
    """A connected SOCK_SEQPACKET socket that sends one message set and receives another."""

    def __init__(self, sock: socket.socket, *, sends: MessageSet, receives: MessageSet) -> None:
        self.sock = sock
        self._sends = sends
        self._receives = receives

    def fileno(self) -> int:
        """Give the descriptor, for a selector."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close this side."""
        self.sock.close()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message, and copies of `descriptors` with it."""
        try:
            socket.send_fds(self.sock, [self._sends.encode(message)], list(descriptors))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error

    def receive(self, expected_descriptors: int = 0) -> tuple[Message, list[int]]:
        """Wait for one message; exactly the expected number of descriptors may come with it."""
        data, descriptors = self._receive_bytes()
        if len(descriptors) != expected_descriptors:
            _close_all(descriptors)
            raise UntrustedInput(
                "TDM-MESSAGE-DESCRIPTORS",
                f"{len(descriptors)} descriptors came with a message, not {expected_descriptors}",
                hint="both sides must be of one version: restart the host's services",
                offset=0,
            )
        try:
            return self._receives.decode(data), descriptors
        except UntrustedInput:
            _close_all(descriptors)
            raise

    def receive_any(self) -> tuple[Message, list[int]]:
        """Wait for one message with however many descriptors it brings."""
        data, descriptors = self._receive_bytes()
        try:
            return self._receives.decode(data), descriptors
        except UntrustedInput:
            _close_all(descriptors)
            raise

    def ask(
        self, message: Message, answer: type[Answer], descriptors: Sequence[int] = ()
    ) -> Answer:
        """Send a request and wait for its answer; a `Failed` answer is raised as its error."""
        self.send(message, descriptors)
        reply, _ = self.receive()
        return expect(reply, answer)

    def _receive_bytes(self) -> tuple[bytes, list[int]]:
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT_SIZE)
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                self._receives.limit + 1, space, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError as error:
            raise Closed from error
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % _INT_SIZE])
        if not data:
            _close_all(descriptors.tolist())
            raise Closed
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            _close_all(descriptors.tolist())
            raise UntrustedInput(
                "TDM-MESSAGE-TRUNCATED",
                "a message is longer than its protocol allows",
                hint="both sides must be of one version: restart the host's services",
                offset=self._receives.limit,
            )
        return data, descriptors.tolist()


def expect(reply: Message, answer: type[Answer]) -> Answer:
    """Give the reply as the kind asked for, or raise what it reports instead."""
    if isinstance(reply, Failed):
        raise reply.as_error()
    if not isinstance(reply, answer):
        raise HostError(
            "TDM-MESSAGE-OUT-OF-PLACE",
            f"got {type(reply).__name__} instead of {answer.__name__}",
            hint="restart the host's services: one of them is of another version",
        )
    return reply


def pair() -> tuple[socket.socket, socket.socket]:
    """Make both ends of a new connection that has no path and no name."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
