"""Doors: how a builder reaches a vTPM that an earlier builder started.

A door is a socket in a directory of the builder's user alone; the vTPM inherits it, listening.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from tandem.channel import Channel
from tandem.errors import HostError
from tandem.hypervisor.descriptors import Descriptors, connect
from tandem.wire.zygote_rpc import STATUS_REPORTS, STATUS_REQUESTS

DOOR: Final = "vtpm.sock"


def make_door(directory: Path, name: str = DOOR) -> int:
    """Give the socket that a vTPM will listen on; one of an earlier vTPM gives way."""
    try:
        with Descriptors() as opened:
            at = opened.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=at)
            return os.dup(opened.listen(at, name, socket.SOCK_SEQPACKET))
    except OSError as error:
        raise HostError(
            "TDM-PAIR-DIRECTORY",
            f"cannot use {directory}: {error.strerror}",
            hint="free space or correct the host directory, then start again",
        ) from error


def knock(directory: Path, name: str = DOOR) -> Channel | None:
    """Connect to a vTPM; None where it listens no more, for it is ending."""
    try:
        sock = connect(directory, name, socket.SOCK_SEQPACKET)
    except OSError:
        return None
    return Channel(sock, sends=STATUS_REQUESTS, receives=STATUS_REPORTS)
