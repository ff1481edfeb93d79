"""Any history of commits, crashes and restored copies: one newest state, and no older one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tandem.errors import HostError, Refused
from tandem.manager.store import NotAnchored, Store
from tandem.values import Secret
from tests.unit.manager.software_host import MemoryAnchor

MASTER = Secret(b"k" * 32)
NAMES = st.sampled_from(["a", "b", "vtpm/web"])
Contents = dict[str, bytes]


class StoreHistory(RuleBasedStateMachine):
    """A store, its pTPM, and somebody who copies the disk and puts copies back."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tandem-store-"))
        self.path = self.directory / "store.sqlite"
        self.anchor = MemoryAnchor()
        self.acknowledged: Contents = {}
        self.unheard: Contents | None = None  # durable, while the pTPM was not told
        self.ahead: list[Contents] = []  # all of that kind, until the pTPM hears of another state
        self.copies: list[tuple[Path, Contents]] = []
        self.count = 0

    @initialize()
    def make(self) -> None:
        store = Store.create(self.path, MASTER, self.anchor)
        store.stage("host", b"1")
        store.commit()
        store.close()
        self.acknowledged = {"host": b"1"}

    def contents(self, store: Store) -> Contents:
        return {name: store.get(name) or b"" for name in store.names("")}

    def open(self) -> Store:
        """Start the Manager; a commit that the pTPM had not heard of is then the newest."""
        store = Store.load(self.path, MASTER, self.anchor)
        if self.unheard is not None:
            self.acknowledged, self.unheard, self.ahead = self.unheard, None, []
        return store

    @rule(changes=st.dictionaries(NAMES, st.binary(max_size=20), min_size=1))
    def commit(self, changes: Contents) -> None:
        store = self.open()
        for name, content in changes.items():
            store.stage(name, content)
        store.commit()
        store.close()
        self.acknowledged, self.ahead = self.acknowledged | changes, []

    @rule(name=NAMES, content=st.binary(max_size=20))
    def crash_before_the_ptpm_is_told(self, name: str, content: bytes) -> None:
        store = self.open()
        store.stage(name, content)
        self.anchor.broken = True
        try:
            store.commit()
        except NotAnchored:
            self.unheard = self.acknowledged | {name: content}
            self.ahead.append(self.unheard)
        finally:
            self.anchor.broken = False
            store.close()

    @rule()
    def copy(self) -> None:
        self.count += 1
        kept = self.directory / f"copy-{self.count}"
        shutil.copy(self.path, kept)
        contents = self.acknowledged if self.unheard is None else self.unheard
        self.copies.append((kept, contents))

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def put_a_copy_back_and_start(self, data: st.DataObject) -> None:
        kept, contents = data.draw(st.sampled_from(self.copies))
        newest = self.directory / "newest"
        shutil.copy(self.path, newest)
        shutil.copy(kept, self.path)
        anchored = self.anchor.value
        try:
            store = Store.load(self.path, MASTER, self.anchor)
        except Refused as error:
            refusal = error.code
            shutil.copy(newest, self.path)
        else:
            refusal = ""
        if refusal:
            assert (refusal, self.anchor.value) == ("TDM-ROLLBACK-STORE", anchored)
            return
        # A copy that opens is the last acknowledged state, or one made from it that nobody was told
        # of: nothing is lost, and once the pTPM has heard of one of these the others are refused
        found = self.contents(store)
        store.close()
        assert found == contents
        assert found in (self.acknowledged, *self.ahead)
        if self.anchor.value != anchored:
            self.ahead = []
        self.acknowledged, self.unheard = found, None

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        if not self.acknowledged or self.unheard is not None:
            return  # nothing yet, or a start would change what is acknowledged
        store = self.open()
        assert self.contents(store) == self.acknowledged
        store.close()

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


StoreHistory.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestStoreHistory = StoreHistory.TestCase


def test_a_changed_byte_anywhere_never_shows_other_contents() -> None:
    # Given a store
    directory = Path(tempfile.mkdtemp(prefix="tandem-store-"))
    path, anchor = directory / "store.sqlite", MemoryAnchor()
    store = Store.create(path, MASTER, anchor)
    for number in range(5):
        store.stage(f"vtpm/{number}", bytes([number]) * 100)
    store.commit()
    store.close()
    whole = path.read_bytes()
    # When any one of its bytes is changed (each 37th, for the time it takes)
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        # Then it is refused by name, or it did not matter
        try:
            damaged = Store.load(path, MASTER, anchor)
        except (HostError, Refused):
            continue
        found = {name: damaged.get(name) for name in damaged.names("")}
        damaged.close()
        assert found == {f"vtpm/{number}": bytes([number]) * 100 for number in range(5)}
    shutil.rmtree(directory)
