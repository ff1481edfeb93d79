"""The broker's one question to the Manager: a channel for filtered commands to the pTPM."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from tandem.channel import Channel, Closed, expect
from tandem.errors import HostError
from tandem.hypervisor.descriptors import connect
from tandem.wire.manager_rpc import BUILDER_ANSWERS, BUILDER_REQUESTS, BrokerOpened, OpenBroker

ANSWER_SECONDS: Final = 30.0


def open_channel(manager: Path) -> socket.socket:
    """Ask the Manager for the channel; the descriptor that comes with its answer."""
    try:
        sock = connect(manager.parent, manager.name, kind=socket.SOCK_SEQPACKET)
    except OSError as error:
        raise HostError(
            "TDM-MANAGER-ABSENT",
            f"the TPM Manager at {manager} cannot be asked: {error.strerror}",
            hint="start the host's services with `sudo tandem host up`",
        ) from error
    sock.settimeout(ANSWER_SECONDS)
    channel = Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)
    try:
        channel.send(OpenBroker())
        answer, descriptors = channel.receive_any()
    except (Closed, TimeoutError) as error:
        raise HostError(
            "TDM-MANAGER-GONE",
            "the Manager closed the connection",
            hint="look for its end in run/manager.log",
        ) from error
    finally:
        channel.close()
    expect(answer, BrokerOpened)
    [descriptor] = descriptors
    return socket.socket(fileno=descriptor)
