"""What the administrator asks about rollback: strict from the next start on, or with a window."""

from __future__ import annotations

from dataclasses import replace

from tandem.errors import UsageError
from tandem.log import Log
from tandem.manager import records
from tandem.manager.clients import Client
from tandem.manager.commits import Commits
from tandem.manager.pacing import WINDOW_MOST
from tandem.manager.room import Room
from tandem.manager.store import Store
from tandem.wire.manager_rpc import ChangeRollback, RollbackChanged


class RollbackRequests:
    """The handler of the message; the record is in the store, where no older copy brings it back.

    It holds from the next start on: the records of pairs that run say what held when they began.
    """

    def __init__(self, store: Store, commits: Commits, log: Log) -> None:
        self._store = store
        self._commits = commits
        self._log = log

    def join(self, room: Room) -> None:
        """Answer the message in `room`."""
        room.on(ChangeRollback, self._change)

    def _change(self, client: Client, asked: ChangeRollback) -> None:
        if not 0 <= asked.window <= WINDOW_MOST:
            raise UsageError(
                "TDM-ROLLBACK-WINDOW",
                f"a window of {asked.window} s is not one of 0 to {WINDOW_MOST} s",
                hint="0 is strict; a minute bounds the TPM's wear as far as most hosts need",
            )
        content = self._store.get(records.HOST)
        if content is None:
            raise TypeError("a host that is open has its record")
        known = records.decode(records.HostRecord, content)
        self._store.stage(
            records.HOST, records.encode(replace(known, rollback_window=asked.window))
        )
        self._log.info("rollback.changed", before=known.rollback_window, window=asked.window)
        self._commits.answer_after(client, RollbackChanged(window=asked.window))
