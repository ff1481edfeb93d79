"""Connecting to a socket whose listener may be hostile."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from tandem.hypervisor.descriptors import Descriptors, connect

WAIT_SECONDS = 10.0


def test_a_listener_that_takes_nobody_holds_nobody_for_ever(tmp_path: Path) -> None:
    # Given a hypervisor that listens, as its builder made it, and never accepts
    connected: list[socket.socket] = []
    refused: list[OSError] = []

    def connect_until_refused() -> None:
        try:
            while True:
                connected.append(connect(tmp_path, "console.sock"))
        except OSError as error:
            refused.append(error)

    with Descriptors() as opened:
        opened.listen(opened.open(tmp_path, os.O_RDONLY), "console.sock")
        # When one connects to it again and again
        trying = threading.Thread(target=connect_until_refused, daemon=True)
        trying.start()
        trying.join(WAIT_SECONDS)
        # Then the connection that found no place is an error soon, and the others wait as they will
        assert isinstance(refused[0], BlockingIOError)
        assert connected
        assert all(each.getblocking() for each in connected)
    for each in connected:
        each.close()
