"""The broker's sockets in this process, on a TPM that answers each command alike."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from tandem import systemd
from tandem.broker.broker import Broker
from tandem.broker.complaints import Complaints
from tandem.broker.dialects import Dialect, Raw
from tandem.broker.figures import Figures
from tandem.broker.scheduler import Scheduler
from tandem.broker.server import Door, Server
from tandem.log import Log
from tandem.systemd import Supervision
from tandem.wire import tpm_commands as tpm
from tandem.wire.broker_rights import Rights, RightsFile

GET_RANDOM = tpm.command(0x17B, (), (4).to_bytes(2))
ANSWER = tpm.response(0, bytes.fromhex("00040a0b0c0d"))
CROWD = range(2000, 2003)  # users with rights, beside root
NO_PROPERTIES = tpm.response(0, bytes.fromhex("000000000600000000"))


def execute(command: bytes) -> bytes:
    """Answer as a gate with a TPM that has no properties."""
    code = int.from_bytes(command[6:10])
    return NO_PROPERTIES if code == tpm.Code.GET_CAPABILITY else ANSWER


@dataclass
class Lines:
    """A log that keeps what is written."""

    text: str = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


class Serving:
    """A server with one door, and clients that connect by it."""

    def __init__(
        self,
        directory: Path,
        dialect: Dialect | None = None,
        uid: int = 0,
        *,
        own_seat: bool = True,
    ) -> None:
        self.lines = Lines()
        self.executed = 0
        self.uid = uid
        self.listening = socket.create_server(("127.0.0.1", 0))
        supervision = Supervision(systemd.take({}, 0))
        rights = RightsFile(default=None, users=dict.fromkeys((0, *CROWD), Rights()))
        log = Complaints(Log("broker", self.lines), time.monotonic)  # type: ignore[arg-type]
        figures = Figures(directory / "metrics.json", time.monotonic)
        self.server = Server(Broker(self._execute), Scheduler(), rights, log, figures, supervision)
        self._wake, ours = socket.socketpair()
        self.server.add(
            Door(
                listening=self.listening,
                dialect=dialect or Raw(),
                identify=lambda _: self.uid,
                own_seat=own_seat,
            )
        )
        self._clients: list[socket.socket] = [ours]

    def client(self) -> socket.socket:
        """Connect, and let the server take the connection."""
        client = socket.create_connection(self.listening.getsockname())
        client.settimeout(5)
        self._clients.append(client)
        self.server.take_turn()
        return client

    def _execute(self, command: bytes) -> bytes:
        self.executed += 1
        return execute(command)

    def turns(self, count: int) -> None:
        """Let the server do what there is to do."""
        for _ in range(count):
            self.server.take_turn(wait=False)

    def close(self) -> None:
        for each in (*self._clients, self.listening, self._wake):
            each.close()
