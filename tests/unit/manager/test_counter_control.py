"""Why the pTPM holds a digest: the same fork against a store that a bare counter guards.

The control is a model of a usual design: a store is the newest when its number is the counter's,
or one more after a crash between the two.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem.errors import HostError, Refused
from tandem.manager.store import NotAnchored, Store
from tandem.values import Secret
from tests.unit.manager.software_host import MemoryAnchor

MASTER = Secret(b"k" * 32)
FIRST, SECOND = b"the state that was never acknowledged", b"the state that was"


@dataclass
class CountedStore:
    """A store with a number, and a monotonic counter in the TPM."""

    disk: dict[str, bytes | int] = field(default_factory=lambda: {"number": 0, "state": b""})
    counter: int = 0

    def commit(self, state: bytes, *, crash: bool = False) -> None:
        """Write the disk first, as one must: a counter ahead of the disk would lose the host."""
        self.disk = {"number": self.counter + 1, "state": state}
        if not crash:
            self.counter += 1

    def open(self) -> bytes | int:
        if self.disk["number"] == self.counter + 1:
            self.counter += 1
        if self.disk["number"] != self.counter:
            raise Refused("TDM-ROLLBACK-STORE", "the counter is ahead", hint="none")
        return self.disk["state"]


def test_control_a_counter_takes_the_fork() -> None:
    # Given a state prepared and copied, a crash before the counter moved, and another committed
    store = CountedStore()
    base = dict(store.disk)
    store.commit(FIRST, crash=True)
    fork = dict(store.disk)
    store.disk = base
    store.commit(SECOND)
    assert store.open() == SECOND
    # When the first is put back
    store.disk = fork
    # Then the counter takes it for the newest: the attack succeeds
    assert store.open() == FIRST


def test_the_digest_chain_refuses_the_fork(tmp_path: Path) -> None:
    # Given the same story with the Manager's store
    path, anchor = tmp_path / "store.sqlite", MemoryAnchor()
    store = Store.create(path, MASTER, anchor)
    store.stage("vtpm/web", b"before")
    store.commit()
    store.close()
    shutil.copy(path, tmp_path / "base")
    store = Store.load(path, MASTER, anchor)
    anchor.broken = True
    store.stage("vtpm/web", FIRST)
    with pytest.raises(NotAnchored):
        store.commit()
    store.close()
    anchor.broken = False
    shutil.copy(path, tmp_path / "fork")
    shutil.copy(tmp_path / "base", path)
    store = Store.load(path, MASTER, anchor)
    store.stage("vtpm/web", SECOND)
    store.commit()
    store.close()
    value = anchor.value
    # When the first is put back
    shutil.copy(tmp_path / "fork", path)
    with pytest.raises(Refused) as raised:
        Store.load(path, MASTER, anchor)
    # Then it is refused, and the pTPM's value stays
    assert raised.value.code == "TDM-ROLLBACK-STORE"
    assert anchor.value == value


def test_a_crash_before_the_extend_is_no_rollback(tmp_path: Path) -> None:
    # Given a commit that the pTPM did not confirm
    path, anchor = tmp_path / "store.sqlite", MemoryAnchor()
    store = Store.create(path, MASTER, anchor)
    store.stage("vtpm/web", b"before")
    store.commit()
    anchor.broken = True
    store.stage("vtpm/web", SECOND)
    with pytest.raises(HostError):
        store.commit()
    store.close()
    # When the Manager starts again while the pTPM still fails, and once it does not
    with pytest.raises(HostError):
        Store.load(path, MASTER, anchor)
    anchor.broken = False
    store = Store.load(path, MASTER, anchor)
    # Then it holds that commit, one step further
    assert store.get("vtpm/web") == SECOND
    store.close()
