"""5: an older copy of a vTPM's state comes back, and its NV counters with it.

Attacker: whoever writes the host's disk.
Control: swtpm on a directory that is restored: its NV counter runs backwards.
Shows: the older state is refused with both versions named (TDM-STATE-OLDER); the newest one goes
on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, copy, count, define_counter, increment


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_control_the_counter_runs_backwards(tmp_path: Path) -> None:
    # Given a vTPM whose counter goes on after its directory was copied
    state = tmp_path / "state"
    state.mkdir()
    with shared_swtpm(state) as tpm:
        define_counter(tpm)
        increment(tpm, 2)
        copied_at = count(tpm)
    copy(state, tmp_path / "kept")
    with shared_swtpm(state) as tpm:
        increment(tpm, 3)
        assert count(tpm) == copied_at + 3

    # When the copy is put back
    with shared_swtpm(tmp_path / "kept") as tpm:
        counted = count(tpm)

    # Then it is the vTPM, and nobody complains
    assert counted == copied_at


def test_an_older_state_is_refused_with_both_versions_named(host: AttackedHost) -> None:
    # Given a vTPM whose counter goes on after its state was copied
    with host.guest() as guest:
        define_counter(guest)
        increment(guest, 2)
    kept = host.keep("vtpm")
    with host.guest() as guest:
        increment(guest, 3)
        newest = count(guest)
    latest = host.keep("vtpm")

    # When the copy is put back
    host.put_back(kept)
    with pytest.raises(Refused) as raised, host.guest():
        pass

    # Then the vTPM does not start, and says which version is there and which is due
    assert raised.value.code == "TDM-STATE-OLDER"
    due, found = (int(word) for word in raised.value.problem.split() if word.strip(",").isdigit())
    assert due > found

    # And with the newest state it goes on where it was
    host.put_back(latest)
    with host.guest() as guest:
        assert count(guest) == newest
