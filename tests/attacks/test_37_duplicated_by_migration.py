"""37: a vTPM is migrated, and the source runs on: it is there twice.

Attacker: root's helper at the control socket of the source.
Control: swtpm; its state is read while it runs and given to a second one, and both count on from
the same number, under one identity.
Shows: a running vTPM gives its state to nobody; a copy of its files is of a version that is no
longer the newest as soon as it counts on (TDM-STATE-OLDER).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers import plain
from peers.swtpm_control import SwtpmControl
from tandem.errors import Refused
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import BODIES, Command
from tandem.wire.tpm_commands import StartupType
from tests.attacks.disk import (
    AttackedHost,
    count,
    define_counter,
    endorsement_key,
    increment,
)
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest

PERMANENT = 1  # PTM_BLOB_TYPE_PERMANENT


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_control_source_and_destination_count_on(tmp_path: Path) -> None:
    # Given a vTPM whose guest counts
    places = [tmp_path / name for name in ("source", "destination")]
    for place in places:
        place.mkdir()
    with plain.swtpm(places[0]) as path, SwtpmControl(path) as source:
        assert source.ask(Command.INIT, 0) == bytes(4)
        done(source, tpm.startup(StartupType.CLEAR))
        define_counter(source)
        increment(source, 2)

        # When its state is read, given to another one, and the first runs on
        blob = source.state(PERMANENT)
        with plain.swtpm(places[1]) as other, SwtpmControl(other) as destination:
            given = destination.ask(Command.SET_STATEBLOB, 0, PERMANENT, len(blob), data=blob)
            assert given == bytes(4)
            assert destination.ask(Command.INIT, 0) == bytes(4)
            done(destination, tpm.startup(StartupType.CLEAR))
            for each in (source, destination):
                increment(each, 1)
            counted = [count(each) for each in (source, destination)]
            keys = {endorsement_key(each) for each in (source, destination)}

    # Then both are the vTPM
    assert counted[0] == counted[1]
    assert len(keys) == 1


def test_a_running_vtpm_gives_its_state_to_nobody(pair: PairUnderTest) -> None:
    # Given a running pair, whose hypervisor asks for all kinds of state
    ask = Command.GET_STATEBLOB.to_bytes(4)
    answers = [
        pair.ask_raw(ask + BODIES[Command.GET_STATEBLOB].pack(flags, kind, 0), 16)
        for kind in (1, 2, 3)
        for flags in (0, 1)
    ]

    # Then it gets none
    assert all(each[:4] != bytes(4) and each[4:] == bytes(12) for each in answers)


def test_a_copy_is_old_as_soon_as_the_original_counts_on(host: AttackedHost) -> None:
    # Given a guest whose state is copied while it runs
    with host.guest() as guest:
        define_counter(guest)
        increment(guest, 2)
        kept = host.keep("vtpm")
        increment(guest, 3)
        counted = count(guest)
    latest = host.keep("vtpm")

    # When the copy is started, once the original has ended
    host.put_back(kept)
    with pytest.raises(Refused) as raised, host.guest():
        pass

    # Then it is an older one
    assert raised.value.code == "TDM-STATE-OLDER"
    host.put_back(latest)
    with host.guest() as guest:
        assert count(guest) == counted
