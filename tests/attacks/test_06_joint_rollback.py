"""6: the Manager's store and the vTPM's state come back together, and agree with each other.

Attacker: whoever writes the host's disk, or restores a snapshot of it.
Control: the usual design, a store of digests on the same disk, as in Xen's vtpmmgr.
Shows: the digest chain in the pTPM refuses the store, however well it agrees with the state
(TDM-ROLLBACK-STORE).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, ClassicManager, copy, count, define_counter, increment


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_control_digests_on_the_same_disk_do_not_help(tmp_path: Path) -> None:
    # Given a vTPM that goes on after everything was copied
    manager = ClassicManager(tmp_path / "classic")
    with manager.guest() as guest:
        define_counter(guest)
        increment(guest, 2)
        copied_at = count(guest)
    copy(manager.directory, tmp_path / "kept")
    with manager.guest() as guest:
        increment(guest, 3)
    # When its state alone is put back, it is refused
    for file in (tmp_path / "kept" / "vtpm").glob("tpm2-*"):
        (manager.vtpm / file.name).write_bytes(file.read_bytes())
    with pytest.raises(Refused), manager.guest():
        pass

    # And when the store is put back with it
    manager.image.write_bytes((tmp_path / "kept" / "image.json").read_bytes())
    with manager.guest() as guest:
        counted = count(guest)

    # Then the two agree, and the counter has run backwards
    assert counted == copied_at


def test_a_store_that_agrees_with_the_state_is_refused_by_the_ptpm(host: AttackedHost) -> None:
    # Given a vTPM that goes on after everything was copied
    with host.guest() as guest:
        define_counter(guest)
        increment(guest, 2)
    host.manager.stop()
    kept = host.keep("manager", "vtpm")
    host.manager.start()
    with host.guest() as guest:
        increment(guest, 3)
        newest = count(guest)
    host.manager.stop()
    latest = host.keep("manager", "vtpm")

    # When all of it is put back
    host.put_back(kept)
    with pytest.raises(Refused) as raised:
        host.manager.start()

    # Then the Manager does not start, and names the store's version and what the pTPM knows
    assert raised.value.code == "TDM-ROLLBACK-STORE"
    stored, known = (int(each) for each in re.findall(r"version (\d+)", raised.value.problem))
    assert stored < known

    # And with the newest one the vTPM goes on where it was
    host.put_back(latest)
    host.manager.start()
    with host.guest() as guest:
        assert count(guest) == newest


def test_a_window_gives_back_what_it_says_and_no_more() -> None:
    # Given a host in window mode, and a running guest whose counter goes on after a copy
    with AttackedHost("window") as host, host.guest() as guest:
        define_counter(guest)
        increment(guest, 2)
        within = host.keep("manager", "vtpm")
        increment(guest, 3)

        # When power is lost and the copy is put back within the window
        host.manager.kill()
        host.put_back(within)
        host.manager.start()
        # Then it opens, as the window says
        assert host.manager.status().rollback_window == 60

        # And when a copy from before that start, or from before a guest's end, is put back
        host.manager.stop()
        host.put_back(within)
        with pytest.raises(Refused) as raised:
            host.manager.start()
        # Then it is refused: starts and ends are anchored at once
        assert raised.value.code == "TDM-ROLLBACK-STORE"
        host.manager.close()
