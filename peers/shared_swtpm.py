"""One TPM, and several programs that use it with nothing between them, as with `/dev/tpm0`.

swtpm serves a connection at a time, so each command here is a connection of its own, as stock tools
make them through libtss2-tcti-swtpm.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers.plain import wait_for_path

HOST: Final = "127.0.0.1"
ANSWER_SECONDS: Final = 60.0
HEADER_SIZE: Final = 10


@dataclass(frozen=True)
class SharedTpm:
    """A running swtpm; whoever reaches its port uses it."""

    port: int

    @property
    def tcti(self) -> str:
        """What stock tools name it by, as in `tpm2_getrandom -T`."""
        return f"swtpm:host={HOST},port={self.port}"

    def transceive(self, command: bytes) -> bytes:
        """Send one command, and wait for its response."""
        with socket.create_connection((HOST, self.port), ANSWER_SECONDS) as connection:
            connection.sendall(command)
            return receive(connection)


@contextlib.contextmanager
def shared_swtpm(directory: Path) -> Iterator[SharedTpm]:
    """Run swtpm on the state in `directory`, started with TPM2_Startup(CLEAR)."""
    port, pid = free_ports(), directory / "swtpm.pid"
    pid.unlink(missing_ok=True)
    command = [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}", "--pid", f"file={pid}"),
        *("--server", f"type=tcp,bindaddr={HOST},port={port}"),
        *("--ctrl", f"type=tcp,bindaddr={HOST},port={port + 1}"),
        *("--flags", "not-need-init,startup-clear"),
    ]
    with (directory / "swtpm.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for_path(pid)  # written once it listens
        yield SharedTpm(port)
    finally:
        process.kill()
        process.wait()


def receive(connection: socket.socket) -> bytes:
    """Read one whole TPM response from a stream."""
    response = b""
    while len(response) < HEADER_SIZE or len(response) < int.from_bytes(response[2:6]):
        more = connection.recv(4096)
        if not more:
            raise ConnectionResetError("the TPM hung up")
        response += more
    return response


def free_ports(count: int = 2) -> int:
    """Find neighbouring ports that nobody listens on; gives the first."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = 0
            for number in range(count):
                sock = stack.enter_context(socket.socket())
                sock.bind((HOST, first and first + number))
                first = first or int(sock.getsockname()[1])
            return first
