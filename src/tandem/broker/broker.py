"""The broker's core: what all clients share, and who of them may go on.

Single-threaded: `Scheduler` says whose command is next, `Connection` carries it out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from tandem.broker.client import Client, Session
from tandem.broker.connection import Connection
from tandem.broker.residency import Residency
from tandem.broker.session_table import SessionTable
from tandem.broker.turns import Commitments, Turn
from tandem.values import Secret
from tandem.wire.auth_failures import AuthFailures
from tandem.wire.nv_wear import WriteBudget
from tandem.wire.sealed_context import ContextSeal
from tandem.wire.tpm_capabilities import properties_of
from tandem.wire.tpm_requests import code_of
from tandem.wire.tpm_table import TABLE, Rule

MAX_AUTH_FAIL: Final = 0x20F  # TPM_PT_MAX_AUTH_FAIL, then _LOCKOUT_INTERVAL (Part 2, 6.13)
KEY_SIZE: Final = 32


class Broker:
    """One channel to the gate, and everything that connections share behind it."""

    def __init__(
        self, execute: Callable[[bytes], bytes], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.execute = execute
        self.now = now
        self.seal = ContextSeal(Secret(os.urandom(KEY_SIZE)))
        self.residency = Residency(execute)
        self.sessions = SessionTable()
        self.exclusive_audit = Turn()
        self.committing = Turn()
        self.commitments = Commitments()
        self._objects: dict[int, int] = {}  # held by each user
        self._failures: dict[int, AuthFailures] = {}
        self._writes: dict[int, WriteBudget] = {}
        properties = properties_of(execute, MAX_AUTH_FAIL, 2)
        self._tries = properties.get(MAX_AUTH_FAIL, 1)
        self._recovery = properties.get(MAX_AUTH_FAIL + 1, 0)

    def connect(self, client: Client) -> Connection:
        """Give a client a connection of its own."""
        return Connection(self, client)

    def waits(self, connection: Connection, command: bytes) -> float:
        """Give the seconds that a command has to wait for another connection; 0: it may run."""
        now = self.now()
        row = TABLE.get(code_of(command))
        seconds = self.exclusive_audit.waits(connection, now)
        if row is not None and row.rule is Rule.TURN:
            seconds = max(seconds, self.committing.waits(connection.client.uid, now))
        return seconds

    def failures(self, client: Client) -> AuthFailures:
        """Give the count of a client's wrong authorizations; half of what locks the TPM is much."""
        found = self._failures.get(client.uid)
        if found is None:
            allowance = max(1, (self._tries - 1) // 2) if self._tries > 1 else 0
            found = AuthFailures(allowance=allowance, recovery=self._recovery)
            self._failures[client.uid] = found
        return found

    def writes(self, client: Client) -> WriteBudget:
        """Give what a client may still write of NV memory."""
        found = self._writes.get(client.uid)
        if found is None:
            found = WriteBudget(client.rights.nv_writes, self.now())
            self._writes[client.uid] = found
        return found

    def has_room(self, client: Client) -> bool:
        """Whether a client may hold one object more."""
        return self._objects.get(client.uid, 0) < client.rights.objects

    def count_objects(self, client: Client, change: int) -> None:
        """Note that a client holds more or fewer objects."""
        self._objects[client.uid] = self._objects.get(client.uid, 0) + change
        if not self._objects[client.uid]:
            del self._objects[client.uid]

    def add_session(self, session: Session) -> None:
        """Note a new session; whichever had its handle before is gone."""
        former = self.sessions.by_handle(session.handle)
        if former is not None:
            self.forget_session(former)
        self.sessions.add(session)

    def forget_session(self, session: Session) -> None:
        """Note that a session is gone, whoever held it."""
        self.sessions.remove(session)
        self.residency.forget_session(session)
        if isinstance(session.holder, Connection):
            held = session.holder.holdings.sessions
            if held.get(session.handle) is session:
                del held[session.handle]
