"""Who waits for whom: nobody for a stranger, everybody a moment for those who ask again."""

from __future__ import annotations

from tandem.manager.gathering import WAIT_MOST, Gathering

TOOK = 0.25


def test_whoever_asks_an_idle_manager_is_served_at_once() -> None:
    # Given nobody served so far
    gathering = Gathering(100)
    # When one or more ask
    # Then they wait for nobody
    assert gathering.due([], 5.0) is None
    assert gathering.due(["a"], 5.0) == 5.0
    assert gathering.due(["a", "b"], 5.0) == 5.0


def test_those_who_ask_again_are_waited_for_and_no_longer_than_a_tenth() -> None:
    # Given three who were served together
    gathering = Gathering(100)
    gathering.served(["a", "b", "c"], 10.0, TOOK)
    # When some of them, or others, ask again
    # Then the next serving is a tenth of that time away, until all are there
    assert gathering.due(["a"], 10.001) == 10.025
    assert gathering.due(["a", "b", "x"], 10.02) == 10.025
    assert gathering.due(["a"], 10.03) == 10.03
    assert gathering.due(["c", "b", "a"], 10.001) == 10.001


def test_a_lone_one_is_not_waited_for_by_who_comes_after_it() -> None:
    # Given one that was served while nobody else was there
    gathering = Gathering(100)
    gathering.served(["a"], 10.0, TOOK)
    assert gathering.due([], 10.0) == 10.0  # to look at once
    gathering.look([])
    # When another asks right after, or the same one again
    # Then neither waits
    assert gathering.due(["b"], 10.001) == 10.001
    assert gathering.due(["a"], 10.001) == 10.001


def test_a_lone_one_that_had_company_is_waited_for() -> None:
    # Given one that was served while others came
    gathering = Gathering(100)
    gathering.served(["a"], 10.0, TOOK)
    gathering.look(["b"])
    # When the first has not asked again, and when it has
    # Then the other waits for it a moment
    assert gathering.due(["b"], 10.001) == 10.025
    assert gathering.due(["b", "a"], 10.002) == 10.002


def test_who_left_is_not_waited_for() -> None:
    # Given two who were served, one of which leaves
    gathering = Gathering(100)
    gathering.served(["a", "b"], 10.0, TOOK)
    gathering.left("b")
    # When the other asks
    # Then it is served at once
    assert gathering.due(["a"], 10.001) == 10.001


def test_a_full_batch_waits_for_nobody() -> None:
    # Given a bound of two
    gathering = Gathering(2)
    gathering.served(["a", "b"], 10.0, TOOK)
    # When two others ask
    # Then they are served at once
    assert gathering.due(["c", "d"], 10.001) == 10.001


def test_however_slow_the_ptpm_is_the_wait_is_bounded() -> None:
    # Given a pTPM that took a minute
    gathering = Gathering(100)
    gathering.served(["a", "b"], 10.0, 60.0)
    # When one asks
    # Then it waits a tenth of a second
    assert gathering.due(["a"], 10.0) == 10.0 + WAIT_MOST
