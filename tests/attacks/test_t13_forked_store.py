"""T13: a state is prepared, power fails, another one is committed, and the first is put back.

Attacker: whoever writes the host's disk and can cut its power.
Control: a store whose number is held against a monotonic counter in a real TPM, with a step of
grace for a crash between the two.
Shows: the pTPM holds the digest of the newest version and not a number alone: the fork is refused
(TDM-ROLLBACK-STORE).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, count, define_counter, increment
from tests.attacks.tpm import Tpm

FIRST, SECOND = "never acknowledged", "acknowledged"


@dataclass
class CountedStore:
    """A store with a number on disk, and a counter in the TPM that must not be ahead of it."""

    path: Path
    tpm: Tpm

    def commit(self, state: str, *, crash: bool = False) -> None:
        """Write the disk first, as one must: a counter ahead of the disk would lose the host."""
        number = count(self.tpm) + 1
        self.path.write_text(json.dumps({"number": number, "state": state}))
        if not crash:
            increment(self.tpm, 1)

    def open(self) -> str:
        """Give the newest state, rolled forward where the counter was not reached."""
        stored = json.loads(self.path.read_text())
        if stored["number"] == count(self.tpm) + 1:
            increment(self.tpm, 1)
        if stored["number"] != count(self.tpm):
            raise Refused("TDM-ROLLBACK-STORE", "the counter is ahead", hint="")
        return str(stored["state"])


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_control_a_counter_takes_the_fork(shared: SharedTpm, tmp_path: Path) -> None:
    # Given a state that was prepared and copied before the counter moved, and another one committed
    define_counter(shared)
    increment(shared, 1)
    store = CountedStore(tmp_path / "store.json", shared)
    store.commit("before")
    base = store.path.read_text()
    store.commit(FIRST, crash=True)
    fork = store.path.read_text()
    store.path.write_text(base)
    store.commit(SECOND)
    assert store.open() == SECOND
    store.path.write_text(base)
    with pytest.raises(Refused):
        store.open()  # an older one it does refuse

    # When the first is put back
    store.path.write_text(fork)

    # Then the counter takes it for the newest: the attack succeeds
    assert store.open() == FIRST


def test_the_digest_chain_refuses_the_fork(host: AttackedHost) -> None:
    # Given a commit whose power fails before the pTPM hears of it, with the store copied there
    vtpm = host.manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    base = host.keep("manager")
    host.crash_before_the_anchor(lambda: vtpm.send_commit(2))
    fork = host.keep("manager")
    # And another commit from the same beginning
    host.put_back(base)
    host.manager.start()
    assert host.manager.vtpm("web").welcome.state_version == 1
    host.manager.stop()

    # When the first is put back
    host.put_back(fork)
    with pytest.raises(Refused) as raised:
        host.manager.start()

    # Then it is refused, by the version that it has
    assert raised.value.code == "TDM-ROLLBACK-STORE"
