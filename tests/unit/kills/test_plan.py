"""What is drawn from a seed is drawn again from it, and in the long run meets everything."""

from __future__ import annotations

from kills.guests import Wish
from kills.plan import LONGEST_GAP, MOST_MOMENTS, SERVICES, Target, draw
from kills.processes import HALVES

GUESTS = ("first", "second")


def test_a_seed_gives_the_same_burst_again_and_another_seed_another() -> None:
    # Given two seeds
    # When each is drawn from twice
    # Then a burst depends on its seed alone
    assert draw("1/0", GUESTS) == draw("1/0", GUESTS)
    assert draw("1/0", GUESTS) != draw("1/1", GUESTS)


def test_in_the_long_run_everything_is_killed_and_everything_wished() -> None:
    # Given many bursts
    bursts = [draw(f"1/{number}", GUESTS) for number in range(200)]
    moments = [moment for burst in bursts for moment in burst.moments]
    # When their targets, sizes and wishes are put together
    everything = {Target(role=role) for role in SERVICES}
    everything |= {Target(role=role, guest=guest) for guest in GUESTS for role in HALVES}
    sizes = {len(moment.targets) for moment in moments}
    # Then none is missing: one alone, all at once, and what is between
    assert {target for moment in moments for target in moment.targets} == everything
    assert sizes == set(range(1, len(everything) + 1))
    assert {wish for burst in bursts for _, _, wish in burst.wishes} == set(Wish)
    assert {len(burst.moments) for burst in bursts} == set(range(1, MOST_MOMENTS + 1))
    assert all(0 <= moment.pause <= LONGEST_GAP for moment in moments)
