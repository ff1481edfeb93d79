"""The vTPM's side of its conversation with the builder, and with the builder after that one.

The status channel ends with the builder that made it.  The door is a listening socket in a
directory of the builder's user alone: by it the next builder finds this vTPM's ear.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Final

from tandem.channel import Channel, Closed
from tandem.errors import UntrustedInput
from tandem.vtpm.key_channels import KeyChannel, KeyChannels
from tandem.vtpm.watch import Source, Watch
from tandem.wire.messages import Message
from tandem.wire.rejoin import NONCE_SIZE
from tandem.wire.zygote_rpc import STATUS_REPORTS, STATUS_REQUESTS, NewKeyChannel

CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))
BUILDER_UID: Final = 0


class BuilderLine:
    """Hears one builder at a time; the one that connected last is the living one."""

    def __init__(self, status: Channel, door: socket.socket, key_channels: KeyChannels) -> None:
        self._status: Channel | None = status
        self._door = door
        self._key_channels = key_channels
        self._watch = Watch()

    def watch(self, watch: Watch) -> None:
        """Have both watched from now on."""
        self._watch = watch
        if self._status is not None:
            watch.add(Source.STATUS, self._status.fileno())
        watch.add(Source.DOOR, self._door.fileno())

    def tell(self, report: Message) -> None:
        """Report; a builder that is gone needs no report."""
        if self._status is not None:
            with contextlib.suppress(Closed):
                self._status.send(report)

    def open_door(self) -> None:
        """Take the connection of a new builder; one that is not root's is closed unread."""
        connection, _ = self._door.accept()
        if _peer_uid(connection) != BUILDER_UID:
            connection.close()
            return
        self._hang_up()
        self._status = Channel(connection, sends=STATUS_REPORTS, receives=STATUS_REQUESTS)
        self._watch.add(Source.STATUS, connection.fileno())

    def hear(self) -> tuple[Message, list[int]] | None:
        """Give what the builder asks; None where it is gone, Closed is not raised."""
        if self._status is None:
            return None
        try:
            message, descriptors = self._status.receive_any()
        except (Closed, UntrustedInput):
            self._hang_up()
            return None
        if isinstance(message, NewKeyChannel):
            self._take_key_channel(message, descriptors)
        return message, descriptors

    def _take_key_channel(self, message: NewKeyChannel, descriptors: list[int]) -> None:
        if len(descriptors) == 1 and len(message.nonce) == NONCE_SIZE:
            sock = socket.socket(fileno=descriptors.pop())
            self._key_channels.give(KeyChannel(sock, message.nonce))

    def _hang_up(self) -> None:
        if self._status is not None:
            self._watch.remove(self._status.fileno())
            self._status.close()
            self._status = None


def close_all(descriptors: list[int]) -> None:
    """Close what came with a message and is of no use."""
    for descriptor in descriptors:
        os.close(descriptor)


def _peer_uid(connection: socket.socket) -> int:
    """Ask the kernel who connected: a directory's mode, once changed, must not open the vTPM."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    uid: int = CREDENTIALS.unpack(credentials)[1]
    return uid
