"""NV memory is written an hour's share at once, and then at its rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.wire.nv_wear import HOUR, WriteBudget


@given(st.integers(1, 50), st.lists(st.floats(0, 2000), max_size=60))
def test_no_hours_are_saved_up(an_hour: int, pauses: list[float]) -> None:
    # Given somebody who writes whenever he may, after any pauses
    now, writes = 100.0, list[float]()
    budget = WriteBudget(an_hour, now)
    for pause in pauses:
        now += pause
        while not budget.used_up(now):
            budget.spend()
            writes.append(now)

    # When the writes of any hour are counted
    # Then they are no more than twice the share: what was left, and what was earned meanwhile
    for first in writes:
        assert sum(first <= each < first + HOUR for each in writes) <= 2 * an_hour


def test_one_is_earned_in_its_part_of_an_hour() -> None:
    # Given a budget of four an hour that is used up
    budget = WriteBudget(4, 0.0)
    for _ in range(4):
        assert not budget.used_up(0.0)
        budget.spend()

    # When a quarter of an hour passes
    # Then there is one
    assert budget.used_up(899.0)
    assert not budget.used_up(900.5)
