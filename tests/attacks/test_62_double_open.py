"""62: two emulators run on one state at once.

Attacker: who may start guests, or has the state on shared storage.
Control: swtpm has a lock file in its directory; a copy, or storage where locks do not reach, is
not that directory: two run at once, and whose state is the last one's to write is chance.
Shows: whether a vTPM is in use is the Manager's to say, not a file's: a second launch is refused
while the first lives (TDM-VTPM-IN-USE), wherever its files are, and works once it has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.errors import Refused
from tests.attacks.disk import (
    AttackedHost,
    copy,
    count,
    define_counter,
    endorsement_key,
    increment,
)


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_control_two_run_on_one_state(tmp_path: Path) -> None:
    # Given a running vTPM, in a directory that has its lock
    (tmp_path / "state").mkdir()
    with shared_swtpm(tmp_path / "state") as one:
        define_counter(one)
        increment(one, 1)

        # When another one is started on the same state, seen without the lock
        copy(tmp_path / "state", tmp_path / "shared")
        (tmp_path / "shared" / ".lock").unlink(missing_ok=True)
        with shared_swtpm(tmp_path / "shared") as two:
            increment(two, 1)
            increment(one, 1)
            counted = [count(each) for each in (one, two)]
            keys = {endorsement_key(each) for each in (one, two)}

    # Then one TPM has counted twice to the same number
    assert len(keys) == 1
    assert counted[0] == counted[1]


def test_a_vtpm_is_in_use_once(host: AttackedHost) -> None:
    # Given a guest whose vTPM runs
    with host.guest() as guest:
        before = endorsement_key(guest)

        # When a second launch of it is asked for, and again without its files there
        codes = [refused(host)]
        place = host.host / "vtpm" / "web"
        aside = place.rename(place.with_name("aside"))
        codes.append(refused(host))

        # Then it is refused, and the first goes on
        assert codes == ["TDM-VTPM-IN-USE"] * 2
        assert endorsement_key(guest) == before

    # And once that has ended, it may start again
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    with host.guest() as guest:
        assert endorsement_key(guest) == before


def refused(host: AttackedHost) -> str:
    """Ask for a launch that is refused; gives the code."""
    with pytest.raises(Refused) as raised, host.guest():
        pass
    return raised.value.code
