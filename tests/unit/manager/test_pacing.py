"""How often the pTPM is written, and how long it bears that."""

from __future__ import annotations

import pytest

from tandem.manager.pacing import CEILING, DAY, LIFE, Pacing, wear

BUDGET = 100_000


def test_no_second_has_more_extends_than_the_ceiling() -> None:
    # Given somebody who extends as soon as it is allowed, at odd times
    pacing, now, times = Pacing(window=0), 100.0, []
    for number in range(100):
        now = pacing.allowed(now)
        pacing.extended(now)
        times.append(now)
        now += 0.001 * (number % 7)
    # When any second of it is looked at
    most = max(sum(begin <= each < begin + 0.999 for each in times) for begin in times)
    # Then the ceiling was kept, and reached
    assert most == CEILING


def test_a_lone_extend_waits_for_nothing() -> None:
    # Given a pace that is far from the ceiling
    pacing = Pacing(window=0)
    pacing.extended(10.0)
    # When the next one is due
    # Then it is allowed at once
    assert pacing.allowed(10.001) == 10.001


def test_a_window_ends_so_many_seconds_after_its_first_commit() -> None:
    # Given a window of a minute, with commits at 10 s and at 30 s
    pacing = Pacing(window=60)
    assert pacing.anchor_due(5.0) is None
    pacing.left_open(10.0)
    pacing.left_open(30.0)
    # When its end is asked for, before and after an extend
    due = pacing.anchor_due(30.0)
    pacing.extended(70.0)
    # Then it counts from the first, and the extend ends it
    assert due == 70.0
    assert pacing.anchor_due(71.0) is None


@pytest.mark.parametrize(
    ("writes", "age", "a_day", "days_left", "over_pace"),
    [
        (0, 0, 0, LIFE // DAY, False),
        (3, 60, 3, 33_332, False),  # made a minute ago
        (1_001, 60, 1_001, 98, True),  # more than a new host's head start
        (55 * 365, 365 * DAY, 55, 1453, False),
        (60_000, 365 * DAY, 164, 243, True),
        (100_000, 6 * 365 * DAY, 46, 0, False),  # used up, at the age it was meant for
        (200_000, 6 * 365 * DAY, 91, 0, True),
    ],
)
def test_writes_are_held_against_a_life(
    writes: int, age: int, a_day: int, days_left: int, over_pace: bool
) -> None:
    # Given so many writes in so many seconds
    # When they are held against the budget
    found = wear(writes=writes, budget=BUDGET, age=age)
    # Then rate, life and alarm are these
    assert (found.a_day, found.days_left, found.over_pace) == (a_day, days_left, over_pace)
