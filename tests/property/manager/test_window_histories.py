"""Window mode: a copy opens exactly as long as the pTPM has not heard of anything newer."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tandem.errors import Refused
from tandem.manager.store import Store
from tandem.values import Secret
from tests.unit.manager.software_host import MemoryAnchor

MASTER = Secret(b"k" * 32)


class WindowHistory(RuleBasedStateMachine):
    """A store whose commits are numbered, its pTPM, and somebody who copies the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tandem-window-"))
        self.path = self.directory / "store.sqlite"
        self.anchor = MemoryAnchor()
        self.number = 0
        self.present = 0  # the commit that is on the disk
        self.opening: set[int] = set()  # the commits whose copies open
        self.copies: dict[int, Path] = {}

    @initialize()
    def make(self) -> None:
        self.act(Store.create(self.path, MASTER, self.anchor), anchor=True)

    def act(self, store: Store, *, anchor: bool) -> None:
        """Commit, and end."""
        self.number += 1
        store.stage("number", b"%d" % self.number)
        store.commit(anchor=anchor)
        store.close()
        self.present = self.number
        self.opening = {self.number} if anchor else self.opening | {self.number}

    def load(self) -> Store:
        """Open what is on the disk; a commit that the pTPM had not heard of is told now."""
        before = self.anchor.value
        store = Store.load(self.path, MASTER, self.anchor)
        assert store.get("number") == b"%d" % self.present
        if self.anchor.value != before:
            self.opening = {self.present}
        return store

    @rule(anchor=st.booleans())
    def commit(self, anchor: bool) -> None:
        self.act(self.load(), anchor=anchor)

    @rule(commits=st.integers(1, 4))
    def leave_a_window_open(self, commits: int) -> None:
        store = self.load()
        for _ in range(commits):
            self.number += 1
            store.stage("number", b"%d" % self.number)
            store.commit(anchor=False)
            shutil.copy(self.path, copied := self.directory / f"copy-{self.number}")
            shutil.copy(f"{self.path}-wal", f"{copied}-wal")
            self.copies[self.number] = copied
            self.opening.add(self.number)
        store.close()
        self.present = self.number

    @rule()
    def start_as_the_manager_does(self) -> None:
        store = self.load()
        store.commit()
        store.close()
        # the same records, at another place in the chain: no copy is the newest any more
        self.opening = {-1}
        self.act(self.load(), anchor=True)

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def put_a_copy_back_and_start(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.copies)))
        kept = self.directory / "kept"
        shutil.copy(self.path, kept)
        shutil.copy(self.copies[number], self.path)
        shutil.copy(f"{self.copies[number]}-wal", f"{self.path}-wal")
        before = self.present
        self.present = number
        try:
            self.load().close()
        except Refused as error:
            refusal = error.code
        else:
            refusal = ""
        assert refusal == ("" if number in self.opening else "TDM-ROLLBACK-STORE")
        if refusal:
            Path(f"{self.path}-wal").unlink(missing_ok=True)
            shutil.copy(kept, self.path)
            self.present = before

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


WindowHistory.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWindowHistory = WindowHistory.TestCase
