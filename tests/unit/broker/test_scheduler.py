"""One command of each client in turn, whoever sends how many; who has to wait lets others go on."""

from __future__ import annotations

from collections import Counter
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from tandem.broker.client import Client
from tandem.broker.connection import Connection
from tandem.broker.scheduler import Scheduler
from tandem.wire.broker_rights import Rights


class Asking:
    """A connection whose commands only say who gave them."""

    def __init__(self, uid: int, done: list[int], wait: float = 0.0) -> None:
        self.client = Client(uid=uid, rights=Rights())
        self.wait = wait
        self._done = done

    def waits(self, _command: bytes) -> float:
        return self.wait

    def execute(self, command: bytes) -> bytes:
        self._done.append(self.client.uid)
        return command


def submit(scheduler: Scheduler, asking: Asking, answers: list[bytes] | None = None) -> None:
    keep = (answers if answers is not None else []).append
    scheduler.submit(cast(Connection, asking), b"command", keep)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=40))
def test_a_client_never_runs_twice_while_another_waits(uids: list[int]) -> None:
    # Given any number of connections of four users, each with a command
    scheduler, done = Scheduler(), list[int]()
    for uid in uids:
        submit(scheduler, Asking(uid, done))
    left = Counter(uids)

    # When they are run one after the other
    while not scheduler.idle:
        waiting = {uid for uid in left if left[uid]}
        before = len(done)
        assert scheduler.step()
        left[done[-1]] -= 1

        # Then the same user's turn comes again only after that of each other who waits
        recent = done[max(0, before + 1 - len(waiting)) :]
        assert len(set(recent)) == len(recent)
    assert Counter(done) == Counter(uids)


def test_a_busy_client_does_not_starve_a_quiet_one() -> None:
    # Given a user with a hundred connections that all ask, and one that asks once
    scheduler, done = Scheduler(), list[int]()
    for _ in range(100):
        submit(scheduler, Asking(1, done))
    submit(scheduler, Asking(2, done))

    # When two commands ran
    scheduler.step()
    scheduler.step()

    # Then the quiet one had its turn
    assert done == [1, 2]


def test_who_has_to_wait_lets_others_go_on() -> None:
    # Given a command that is held back, and one that is not
    scheduler, done = Scheduler(), list[int]()
    held, free = Asking(1, done, wait=0.5), Asking(2, done)
    submit(scheduler, held)
    submit(scheduler, free)

    # When a command runs, and then another
    assert scheduler.step()
    assert not scheduler.step()

    # Then the free one ran, and the other one's time is known
    assert done == [2]
    assert scheduler.delay() == 0.5
    held.wait = 0.0
    assert scheduler.step()
    assert scheduler.delay() is None


def test_what_a_client_that_left_asked_for_is_forgotten() -> None:
    # Given two connections of one user, and the answers that they wait for
    scheduler, done, answers = Scheduler(), list[int](), list[bytes]()
    leaving, staying = Asking(1, done), Asking(1, done)
    submit(scheduler, leaving, answers)
    submit(scheduler, staying, answers)

    # When one leaves
    scheduler.withdraw(cast(Connection, leaving))
    while scheduler.step():
        pass

    # Then only the other one's command runs
    assert (done, answers) == ([1], [b"command"])
    scheduler.withdraw(cast(Connection, leaving))
    assert scheduler.idle
