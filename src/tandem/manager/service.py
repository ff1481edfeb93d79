"""The Manager's loop: take every message that waits, then do the slow things once for all of them.

A turn takes one message of each connection that has one.  What changes records is committed
together (`commits`) and answered after that; what wants a deep quote shares one pTPM quote
(`deep_quotes`).  Who may ask what is in one module for each kind of client: `builder_requests`,
`host_requests`, `vtpm_requests`, `broker_requests`.
"""

from __future__ import annotations

import socket
import time
from typing import Protocol

from tandem.log import Log
from tandem.manager.broker_requests import BrokerRequests
from tandem.manager.builder_requests import BuilderRequests
from tandem.manager.clients import Client, Clients
from tandem.manager.commit_limits import CommitLimits
from tandem.manager.commits import Commits
from tandem.manager.deep_quotes import DeepQuotes
from tandem.manager.group_opening import GroupOpening
from tandem.manager.group_requests import GroupRequests
from tandem.manager.host import Host
from tandem.manager.host_requests import HostRequests, host_status
from tandem.manager.key_renewal import KeyRenewal
from tandem.manager.leftovers import Leftovers
from tandem.manager.metrics import ManagerMetrics
from tandem.manager.pacing import Pacing
from tandem.manager.pairs import Pairs
from tandem.manager.rights import Rights
from tandem.manager.rollback_requests import RollbackRequests
from tandem.manager.room import Room
from tandem.manager.secrets_requests import SecretsRequests
from tandem.manager.vtpm_requests import VtpmRequests
from tandem.wire.manager_rpc import BUILDER_ANSWERS, BUILDER_REQUESTS, HostStatus


class Duty(Protocol):
    """Something that the loop does at its time, beside answering; times are `time.monotonic`'s."""

    def due(self, now: float) -> float | None:
        """Give when `run` has something to do; None where it has nothing."""
        ...

    def run(self, now: float) -> None:
        """Do it; called in a turn in which it is due."""
        ...


class Service:
    """Serves builder, command line and vTPMs from one open host."""

    def __init__(
        self, host: Host, pairs: Pairs, listening: socket.socket, log: Log, rights: Rights
    ) -> None:
        self._host = host
        self._pairs = pairs
        self._listening = listening
        self._running = True
        self.clients = Clients(log, rights, self._left)
        self._commits = Commits(
            host.store,
            self.clients,
            log,
            pacing=Pacing(window=host.record.rollback_window),
            budget=host.record.wear_budget,
        )
        self._deep_quotes = DeepQuotes(
            lambda root: host.ptpm.quote(root, host.quoted_registers), self.clients, log
        )
        limits = CommitLimits()
        vtpms = VtpmRequests(pairs, self.clients, self._commits, self._deep_quotes, limits).room()
        self._builder = BuilderRequests(pairs, self.clients, self._commits, vtpms, log)
        self._room = Room(sends=BUILDER_ANSWERS, receives=BUILDER_REQUESTS)
        self._builder.join(self._room)
        HostRequests(host, self._status).join(self._room)
        RollbackRequests(host.store, self._commits, log).join(self._room)
        leftovers = Leftovers(host.paths, host.ptpm, log)
        SecretsRequests(host, self._commits, log, leftovers).join(self._room)
        GroupRequests(host, pairs, self._commits).join(self._room)
        self.metrics = ManagerMetrics(self._status, lambda: self.clients.held)
        self.metrics.join(self._room)
        self.clients.count_refusal = self.metrics.count_refusal
        self._deep_quotes.observe_batch = self.metrics.observe_batch
        groups = (GroupOpening(host.groups, log), KeyRenewal(host.groups, log))
        broker = BrokerRequests(host, self.clients, log)
        broker.join(self._room)
        self.duties: list[Duty] = [
            self._commits,
            self._deep_quotes,
            limits,
            broker,
            leftovers,
            *groups,
        ]

    def serve(self, end: socket.socket) -> None:
        """Serve until something is written to the other side of `end`."""
        self._listening.setblocking(False)
        self.clients.watch(
            self._listening, lambda: self.clients.accept(self._listening, self._room)
        )
        self.clients.watch(end, self._stop)
        self._commits.start()
        while self._running:
            self._take_turn()
        self._commits.finish()
        self.clients.close()

    def _take_turn(self) -> None:
        for ready in self.clients.ready(self._seconds_to_next_duty()):
            ready()
        for duty in self.duties:
            due = duty.due(time.monotonic())
            if due is not None and due <= time.monotonic():
                duty.run(time.monotonic())

    def _seconds_to_next_duty(self) -> float | None:
        now = time.monotonic()
        times = [due for duty in self.duties if (due := duty.due(now)) is not None]
        return max(0.0, min(times) - now) if times else None

    def _left(self, client: Client) -> None:
        self._builder.left(client)
        self._deep_quotes.left(client)
        self._commits.left(client)
        if client.pair is not None:
            self._commits.urge()

    def _stop(self) -> None:
        self._running = False

    def _status(self) -> HostStatus:
        return host_status(
            self._host,
            deep_quotes=self._deep_quotes.answered,
            ptpm_quotes=self._deep_quotes.ptpm_quotes,
            open_pairs=len(self._pairs),
            wear=self._commits.wear(),
        )
