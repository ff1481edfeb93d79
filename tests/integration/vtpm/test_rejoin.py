"""A vTPM outlives its Manager: its guest's durable write waits, and nothing answered is lost."""

from __future__ import annotations

import select
from collections.abc import Callable

import pytest

from tandem.vtpm.provisioning import Nv
from tandem.wire import tpm_commands as tpm
from tandem.wire.zygote_rpc import EndVtpm
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import PairUnderTest, gone

MakePair = Callable[..., PairUnderTest]
INDEX = 0x01500001
PLAIN = Nv.AUTHWRITE | Nv.AUTHREAD | Nv.NO_DA
DEFINE = tpm.nv_define_space(tpm.OWNER, tpm.nv_public(INDEX, PLAIN, 8))
WAIT_SECONDS = 0.3


def begin(make_pair: MakePair) -> tuple[PairUnderTest, Guest]:
    """Give a pair with a started guest."""
    pair = make_pair()
    pair.ready()
    pair.start_guest()
    pair.connect()
    guest = Guest(pair)
    guest.start()
    return pair, guest


def answered(pair: PairUnderTest, seconds: float) -> bool:
    """Whether the guest gets a response in time."""
    return bool(select.select([pair.data], [], [], seconds)[0])


def response_code(pair: PairUnderTest) -> int:
    assert answered(pair, 10)
    return int.from_bytes(pair.data.recv(4096)[6:10])


def test_a_write_waits_for_the_next_manager(make_pair: MakePair, manager: ManagerDouble) -> None:
    # Given a guest that writes while no Manager lives
    pair, guest = begin(make_pair)
    manager.hang_up()
    assert guest.code(tpm.pcr_read([0])) == 0
    commits = manager.commits
    pair.data.sendall(DEFINE)
    assert not answered(pair, WAIT_SECONDS)

    # When the vTPM gets a channel to the next one
    pair.rejoin(*manager.rejoin(pair.pair_id))

    # Then the write is recorded there, once, and answered
    assert response_code(pair) == 0
    assert manager.commits == commits + 1


def test_a_commit_that_was_recorded_and_not_answered_is_not_made_twice(
    make_pair: MakePair, manager: ManagerDouble
) -> None:
    # Given a Manager that dies between recording a state and saying so
    pair, guest = begin(make_pair)
    commits = manager.commits
    manager.swallows = True
    pair.data.sendall(DEFINE)
    assert not answered(pair, WAIT_SECONDS)

    # When the vTPM rejoins
    pair.rejoin(*manager.rejoin(pair.pair_id))

    # Then the guest is answered, and the next write is the next version
    assert response_code(pair) == 0
    assert manager.commits == commits + 1
    assert guest.code(tpm.nv_define_space(tpm.OWNER, tpm.nv_public(INDEX + 1, PLAIN, 8))) == 0


@pytest.mark.parametrize("managers", [1, 3])
def test_a_vtpm_that_was_idle_rejoins_the_newest_manager(
    make_pair: MakePair, manager: ManagerDouble, managers: int
) -> None:
    # Given a guest that asks nothing durable while its Manager is started again, once or often
    pair, guest = begin(make_pair)
    for _ in range(managers):
        manager.hang_up()
        pair.rejoin(*manager.rejoin(pair.pair_id))

    # When it writes
    code = guest.code(DEFINE)

    # Then it sees nothing of that
    assert code == 0


def test_a_vtpm_hears_the_next_builder_at_its_door(
    make_pair: MakePair, manager: ManagerDouble
) -> None:
    # Given a pair whose builder and Manager both died
    pair, guest = begin(make_pair)
    pair.meet_another_builder()
    manager.hang_up()

    # When the next builder hands it a channel to the next Manager, and at last ends it
    pair.rejoin(*manager.rejoin(pair.pair_id))
    code = guest.code(DEFINE)
    pair.status.send(EndVtpm())

    # Then it goes on, and ends in order
    assert code == 0
    assert pair.ended().code == "TDM-VTPM-END-ASKED"
    assert gone(pair.pidfd, 1.0)


def test_a_manager_with_an_older_store_ends_the_pair(
    make_pair: MakePair, manager: ManagerDouble
) -> None:
    # Given a Manager that comes back with an older store
    pair, _ = begin(make_pair)
    entry = manager.entries["vtpm"]
    manager.hang_up()
    entry.version -= 1

    # When the guest writes, and the vTPM rejoins
    pair.data.sendall(DEFINE)
    pair.rejoin(*manager.rejoin(pair.pair_id))

    # Then the pair ends by name, and the write has no answer
    assert pair.ended().code == "TDM-STATE-FORKED"
    assert pair.data.recv(4096) == b""


def test_a_guest_that_ends_while_no_manager_lives_takes_its_vtpm_along(
    make_pair: MakePair, manager: ManagerDouble
) -> None:
    # Given a guest whose write waits for a Manager
    pair, _ = begin(make_pair)
    manager.hang_up()
    pair.data.sendall(DEFINE)

    # When it is killed
    pair.kill_guest()

    # Then the vTPM waits no longer
    assert gone(pair.pidfd, 1.0)
