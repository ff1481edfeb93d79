"""Answers that wait until what they report is durable: one commit, one extend, for all of them.

Strict: each commit is anchored in the pTPM before it is acknowledged.  In window mode a vTPM's new
state may wait for its anchor, up to the window's length; whatever makes, starts, ends or changes
something in the host is anchored at once in either mode.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tandem.errors import HostError
from tandem.log import Log
from tandem.manager.clients import Client, Clients
from tandem.manager.gathering import Gathering
from tandem.manager.pacing import Pacing, Wear, wear
from tandem.manager.store import NotWritten, Store
from tandem.wire.messages import Message, failure

GROUP_MOST: Final = 4096  # who wait: with so many, nobody else is waited for
ALARM_SECONDS: Final = 3600.0  # between two alarms about the pTPM's wear


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer that waits; `undo` takes back what it reports where nothing was written."""

    client: Client
    send: Callable[[], None]
    undo: Callable[[], None]


class Commits:
    """Commits what is staged in the store, then sends the answers that wait for it."""

    def __init__(
        self, store: Store, clients: Clients, log: Log, *, pacing: Pacing, budget: int
    ) -> None:
        self._store = store
        self._clients = clients
        self._log = log
        self._pacing = pacing
        self._budget = budget
        self._gathering = Gathering(GROUP_MOST)
        self._waiting: list[Reply] = []
        self._urgent = False  # whether what waits must be anchored whatever the mode
        self._next_alarm = 0.0

    def start(self) -> None:
        """Begin: in window mode, no other state that descends from the anchor opens after this."""
        if not self._pacing.strict:
            self._store.commit()
        self._store.note_version()

    def finish(self) -> None:
        """End: what is durable is anchored, too, and the pTPM knows its number."""
        self._store.anchor()
        try:
            self._store.note_version()
        except HostError as error:  # a pTPM that is gone already; nothing depends on the number
            self._log.warning("store.version-not-noted", **error.as_record())

    def answer_after(
        self,
        client: Client,
        message: Message,
        *,
        send: Callable[[], None] | None = None,
        undo: Callable[[], None] | None = None,
        may_wait: bool = False,
    ) -> None:
        """Send `message` (or call `send`) once what is staged now is durable.

        Where it cannot be written the client gets the failure instead, and `undo` is called.  With
        `may_wait`, its anchor may wait for the end of the window.
        """
        self._clients.wait(client)
        self._urgent |= not may_wait
        self._waiting.append(
            Reply(
                client=client,
                send=send or (lambda: self._clients.answer(client, message)),
                undo=undo or (lambda: None),
            )
        )

    def urge(self) -> None:
        """Have everything that is durable anchored as soon as the ceiling allows."""
        self._urgent |= self._store.unanchored or self._store.dirty

    def left(self, client: Client) -> None:
        """Expect nothing more from a client that is gone."""
        self._gathering.left(client)

    def wear(self) -> Wear:
        """Say how far the pTPM's NV memory is used up by this store."""
        age = time.time() - self._store.since
        return wear(writes=self._store.anchors, budget=self._budget, age=age)

    def due(self, now: float) -> float | None:
        """Give when `run` has something to do: a time of the monotonic clock, None for never."""
        gathered = self._gathering.due(self._members(), now)
        if self._anchors(now) and (self._store.dirty or self._store.unanchored):
            return max(gathered or now, self._pacing.allowed(now))
        if gathered is not None or self._store.dirty:
            return now
        return self._pacing.anchor_due(now)

    def run(self, now: float) -> None:
        """Commit or anchor, and answer."""
        self._gathering.look(self._members())
        due = self.due(now)
        if due is None or due > now:
            return
        taken, self._waiting = self._waiting, []
        try:
            self._commit(now)
        except NotWritten as error:
            self._undo(taken, error)
            return
        for reply in taken:
            reply.send()
        after = time.monotonic()
        self._gathering.served([reply.client for reply in taken], after, after - now)

    def settle(self) -> None:
        """Have all that waits durable, anchored and answered now, whatever the pace.

        Errors: NotWritten, and whoever waited was told; NotAnchored, which the next `run` raises
        again, for whoever catches it here does not end the Manager.
        """
        self._urgent = True
        taken, self._waiting = self._waiting, []
        try:
            self._commit(time.monotonic())
        except NotWritten as error:
            self._undo(taken, error)
            raise
        for reply in taken:
            reply.send()

    def _anchors(self, now: float) -> bool:
        """Whether what is durable after the next commit is anchored with it."""
        end = self._pacing.anchor_due(now)
        return self._pacing.strict or self._urgent or (end is not None and end <= now)

    def _members(self) -> list[Client]:
        return [reply.client for reply in self._waiting]

    def _commit(self, now: float) -> None:
        before, anchors = self._store.anchors, self._anchors(now)
        if self._store.dirty:
            self._store.commit(anchor=anchors)
        elif anchors:
            self._store.anchor()
        self._urgent = False  # not where that failed
        now = time.monotonic()
        if self._store.unanchored:
            self._pacing.left_open(now)
        elif self._store.anchors > before:
            self._pacing.extended(now)
            self._watch_wear(now)

    def _watch_wear(self, now: float) -> None:
        """Raise an alarm where the pTPM's life would end too soon, at most once an hour."""
        worn = self.wear()
        if worn.over_pace and now >= self._next_alarm:
            self._next_alarm = now + ALARM_SECONDS
            self._log.warning(
                "ptpm.wears-out",
                nv_writes=worn.writes,
                nv_budget=worn.budget,
                nv_writes_a_day=worn.a_day,
                nv_days_left=worn.days_left,
            )

    def _undo(self, taken: list[Reply], error: NotWritten) -> None:
        """Report that nothing was written to everybody who relied on it."""
        self._log.warning("store.not-written", **error.as_record())
        for reply in taken:
            self._clients.answer(reply.client, failure(error))
            reply.undo()
