"""Whoever was not used for longest leaves its slot, and nobody who is needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.broker.slots import Slots


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=2, unique=True), max_size=40))
def test_no_more_is_loaded_than_fits_and_the_newest_stay(uses: list[list[int]]) -> None:
    # Given slots for two, and any sequence of uses of one or two items
    slots: Slots[int] = Slots()
    order: list[int] = []
    for wanted in uses:
        # When room is made for each use
        for leaving in slots.leaving(wanted, 2):
            assert leaving not in wanted
            slots.remove(leaving)
        for item in wanted:
            slots.use(item)
        order = [item for item in order if item not in wanted] + wanted

        # Then what is loaded is what was used last
        loaded = [item for item in range(7) if item in slots]
        assert len(slots) == len(loaded) <= 2
        assert set(loaded) <= set(order[-2:])


def test_nobody_wanted_leaves_where_there_is_not_room_for_all() -> None:
    # Given two items that are loaded
    slots: Slots[str] = Slots()
    slots.use("a")
    slots.use("b")

    # When both are wanted, and room for none
    # Then nobody leaves; where one is wanted, the other does
    assert slots.leaving(["a", "b"], 0) == []
    assert slots.leaving(["a"], 1) == ["b"]
    assert slots.leaving([], 1) == ["a"]
