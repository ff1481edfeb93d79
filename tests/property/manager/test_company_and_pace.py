"""Gathering and pacing under any traffic: nobody waits too long, and no second has too much."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.manager.gathering import SHARE, WAIT_MOST, Gathering
from tandem.manager.pacing import Pacing

GUESTS = st.integers(0, 5)
STEPS = st.lists(st.tuples(st.floats(0, 0.5), st.sets(GUESTS), st.sets(GUESTS)), max_size=30)
MOST = 4


@settings(deadline=None)
@given(steps=STEPS, took=st.floats(0, 5))
def test_whoever_waits_is_served_soon(
    steps: list[tuple[float, set[int], set[int]]], took: float
) -> None:
    # Given guests that ask, wait and leave at any times
    gathering, waiting, now, last = Gathering(MOST), set[int](), 100.0, 0.0
    for pause, coming, leaving in steps:
        now += pause
        waiting |= coming
        for guest in leaving:
            waiting.discard(guest)
            gathering.left(guest)
        # When the loop asks when to serve
        due = gathering.due(waiting, now)
        if due is not None and due <= now:
            gathering.look(waiting)
            due = gathering.due(waiting, now)
        # Then there is a time for whoever waits, and it is no later than a tenth after the last
        assert (due is None) == (not waiting)
        if due is not None:
            assert now <= due <= max(now, last + min(SHARE * took, WAIT_MOST))
            assert due == now or len(waiting) < MOST
            if due <= now:
                gathering.served(waiting, now, took)
                waiting, last = set(), now


@settings(deadline=None)
@given(
    pauses=st.lists(st.floats(0, 0.3), max_size=60),
    ceiling=st.integers(1, 10),
    window=st.sampled_from([0, 60]),
)
def test_no_second_has_more_extends_than_the_ceiling(
    pauses: list[float], ceiling: int, window: int
) -> None:
    # Given somebody who extends as soon as it is allowed
    pacing, now, times = Pacing(window=window, ceiling=ceiling), 100.0, list[float]()
    for pause in pauses:
        now = pacing.allowed(now + pause)
        pacing.extended(now)
        times.append(now)
    # When the extend after so many others is looked at
    # Then it is a second or more later than the first of them
    for first, after in zip(times, times[ceiling:], strict=False):
        assert after - first >= 1.0 - 1e-9
