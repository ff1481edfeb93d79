"""The broker's channel: one raw TPM command each turn, after the Manager's own work."""

from __future__ import annotations

import socket
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Final

from tandem import channel as channels
from tandem.broker_rights import read_rights
from tandem.errors import Refused
from tandem.log import Log
from tandem.manager.clients import Client, Clients
from tandem.manager.gate import Gate
from tandem.manager.host import Host
from tandem.manager.room import Room
from tandem.manager.tcti import PtpmFailed
from tandem.wire.broker_rights import Rights
from tandem.wire.broker_rules import refused
from tandem.wire.manager_rpc import CHANNEL_LIMIT, BrokerOpened, OpenBroker
from tandem.wire.nv_wear import WriteBudget
from tandem.wire.tpm_commands import Rc

AT_ONCE: Final = 0.0  # the loop's clock is always past it


class BrokerRequests:
    """Lets one broker at a time in; a duty of the loop, which comes after commits and quotes."""

    def __init__(self, host: Host, clients: Clients, log: Log) -> None:
        self._host = host
        self._clients = clients
        self._log = log
        self._channel: socket.socket | None = None
        self._gate: Gate | None = None
        self._writes: WriteBudget | None = None
        self._waits = False

    def join(self, room: Room) -> None:
        """Answer the broker's one message in `room`."""
        room.on(OpenBroker, self._open)

    def due(self, now: float) -> float | None:
        """Give when `run` has something to do: at once where a command waits."""
        return AT_ONCE if self._waits else None

    def run(self, now: float) -> None:
        """Answer one command."""
        self._waits = False
        if self._channel is None or self._gate is None:
            return
        try:
            command = self._channel.recv(CHANNEL_LIMIT + 1)
            if not command:
                self._close()
                return
            self._channel.send(self._answer(self._gate, command))
        except OSError:  # it left, or sends more than it reads
            self._close()

    def _answer(self, gate: Gate, command: bytes) -> bytes:
        try:
            return gate.execute(command)
        except PtpmFailed as error:
            self._log.warning("broker.not-answered", **error.as_record())
            return refused(Rc.FAILURE)

    def _open(self, client: Client, _: OpenBroker) -> None:
        if self._channel is not None:
            raise Refused(
                "TDM-BROKER-RUNNING",
                "a broker has the channel to the pTPM already",
                hint="there is one broker for each host: end the other, or use it",
            )
        rights = self._rights()
        gate = Gate(
            self._host.ptpm.tcti.transceive,
            rights=rights,
            root_name=self._host.identity.root_name,
            writes=self._budget(rights.nv_writes),
        )
        ours, theirs = channels.pair()
        ours.setblocking(False)
        self._channel, self._gate = ours, gate
        self._host.ptpm.room = gate.cleared
        self._clients.watch(ours, self._ready)
        with theirs:
            self._clients.answer(client, BrokerOpened(), [theirs.fileno()])
        self._log.info("broker.opened")

    def _rights(self) -> Rights:
        """Give what anybody may do, less the registers that the host is sealed to."""
        rights = read_rights(self._host.paths.broker_rights).union()
        return replace(rights, extend=rights.extend - set(self._host.identity.registers))

    def _budget(self, an_hour: int) -> WriteBudget:
        """Give the budget of NV writes, which a broker does not renew by starting again."""
        if self._writes is None or self._writes.an_hour != an_hour:
            self._writes = WriteBudget(an_hour, time.monotonic())
        return self._writes

    def _ready(self) -> None:
        self._waits = True

    def _close(self) -> None:
        if self._channel is None or self._gate is None:
            return
        self._clients.unwatch(self._channel)
        self._channel.close()
        self._host.ptpm.room = nullcontext
        with suppress(PtpmFailed):  # there is no pTPM to leave clean
            self._gate.close()
        self._channel = self._gate = None
        self._log.info("broker.closed")
