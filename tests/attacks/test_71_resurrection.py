"""71: a vTPM that was destroyed comes back from a copy.

Attacker: whoever writes the host's disk.
Control: the usual design, store and state removed and put back.
Shows: the host does not start on the old store (TDM-ROLLBACK-STORE); the old state alone is of no
vTPM that there is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, ClassicManager, copy, count, define_counter, increment
from tests.integration.manager.running_manager import tandem


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_control_what_was_removed_comes_back(tmp_path: Path) -> None:
    # Given a vTPM that was copied, and then removed with all that names it
    manager = ClassicManager(tmp_path / "classic")
    with manager.guest() as guest:
        define_counter(guest)
        increment(guest, 2)
        counted = count(guest)
    copy(manager.directory, tmp_path / "kept")
    manager.image.unlink()
    shutil.rmtree(manager.vtpm)

    # When the copy is put back
    copy(tmp_path / "kept" / "vtpm", manager.vtpm)
    copy(tmp_path / "kept" / "image.json", manager.image)

    # Then it serves again
    with manager.guest() as guest:
        assert count(guest) == counted


def test_a_destroyed_vtpm_stays_destroyed(host: AttackedHost) -> None:
    # Given a vTPM that was copied, with the store, and then destroyed
    with host.guest() as guest:
        define_counter(guest)
    host.manager.stop()
    kept = host.keep("manager", "vtpm")
    host.manager.start()
    host.manager.attend()
    destroyed = tandem(host.host, "vtpm", "destroy", "web", "--key", str(host.key))
    assert destroyed.returncode == 0, destroyed.stderr
    host.manager.stop()
    without = host.keep("manager")

    # When everything is put back
    host.put_back(kept)
    with pytest.raises(Refused) as raised:
        host.manager.start()
    # Then the host does not start on it
    assert raised.value.code == "TDM-ROLLBACK-STORE"

    # And when the vTPM's own state alone is put back
    host.put_back(without)
    host.manager.start()
    with host.guest() as guest, pytest.raises(AssertionError) as missing:
        count(guest)
    # Then its name is another vTPM's, which has no such index (TPM_RC_HANDLE)
    assert "0x18b" in str(missing.value)
