"""A group's share of commits: its own rate, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tandem.manager.commit_limits import CommitLimits


@pytest.fixture
def limits() -> CommitLimits:
    return CommitLimits()


def test_a_burst_of_one_second_goes_through_and_the_rest_at_the_rate(limits: CommitLimits) -> None:
    # Given a group of ten commits a second
    # When it commits thirty times at one moment
    times = [limits.take("red", 10, 100.0) for _ in range(30)]
    # Then ten are answered at once, and the others in the two seconds after
    assert times[:10] == [100.0] * 10
    assert times[10:] == pytest.approx([100.1 + each / 10 for each in range(20)])


def test_one_groups_rate_is_not_anothers(limits: CommitLimits) -> None:
    # Given a group that used its rate up
    for _ in range(1000):
        limits.take("red", 10, 5.0)
    # When another group commits
    # Then it waits for nothing
    assert limits.take("blue", 10, 5.0) == 5.0


def test_what_waits_is_done_in_its_time_and_order(limits: CommitLimits) -> None:
    # Given answers that wait
    done: list[str] = []

    def say(what: str) -> Callable[[], None]:
        return lambda: done.append(what)

    for until, what in ((2.0, "second"), (3.0, "third"), (1.0, "first"), (0.0, "at once")):
        limits.wait(until, 0.5, say(what))
    # When time goes on
    due = limits.due(0.5)
    limits.run(2.0)
    # Then those are done whose time has come
    assert (due, done, limits.due(2.0)) == (1.0, ["at once", "first", "second"], 3.0)
