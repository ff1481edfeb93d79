"""What a TPM has once is held by one connection at a time, and never for long."""

from __future__ import annotations

from tandem.broker.turns import COMMITMENTS_MOST, Commitments, Turn

FIRST, SECOND = object(), object()


def test_others_wait_until_the_holder_was_idle_for_a_moment() -> None:
    # Given a connection that took its turn
    turn = Turn()
    turn.take(FIRST, 10.0)

    # When time passes
    # Then others wait that long and no longer, and the holder never
    assert turn.waits(SECOND, 10.0) == 0.25
    assert turn.waits(SECOND, 10.125) == 0.125
    assert turn.waits(FIRST, 10.125) == 0.0
    assert turn.waits(SECOND, 10.25) == 0.0


def test_half_of_the_time_is_everybodys_however_many_take_turns() -> None:
    # Given two connections that take turns without a pause
    turn, other, free = Turn(), object(), 0
    for step in range(1000):
        now = 10 + step / 100
        turn.take(FIRST, now)
        turn.take(SECOND, now)

        # When others would work meanwhile
        free += turn.waits(other, now) == 0.0

    # Then they may, half of the time, and wait no longer than a second
    assert 450 < free < 550


def test_a_turn_that_is_given_back_is_free() -> None:
    # Given a connection that took its turn
    turn = Turn()
    turn.take(FIRST, 10.0)

    # When it ends
    turn.let_go(SECOND, 10.1)
    assert turn.waits(SECOND, 10.1) > 0
    turn.let_go(FIRST, 10.1)

    # Then nobody waits, and the rest is as short as the hold
    assert turn.waits(SECOND, 10.1) == 0.0
    turn.take(SECOND, 10.15)
    assert turn.waits(FIRST, 10.15) == 0.0
    turn.take(SECOND, 10.25)
    assert turn.waits(FIRST, 10.25) > 0


def test_commitments_are_remembered_up_to_a_number() -> None:
    # Given a user that commits without end
    commitments = Commitments()
    for counter in range(COMMITMENTS_MOST + 1):
        commitments.add(counter, 1)

    # When they are asked for
    # Then the oldest is forgotten, and others are its own until used
    assert not commitments.is_of(0, 1)
    assert commitments.is_of(1, 1)
    assert not commitments.is_of(1, 2)
    commitments.use(1)
    assert not commitments.is_of(1, 1)
    assert commitments.has(1)
    assert not commitments.has(2)
