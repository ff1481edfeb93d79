"""The explorer finds what is wrong with a table, and says how it came about."""

from __future__ import annotations

import pytest

from model.__main__ import LEAST
from model.explore import Explored, explore
from model.invariants import check
from model.steps import Bounds, Steps, Table
from model.world import Side, World
from tandem.builder.lifecycle import TABLE, Action, Event, State, Step


def explored(table: Table, bounds: Bounds = LEAST) -> Explored:
    return explore(World(), Steps(bounds, table), check)


def with_row(state: State, event: Event, step: Step) -> Table:
    return {**TABLE, (state, event): step}


def test_the_lifecycle_keeps_its_invariants_with_two_guests_and_crashes() -> None:
    # Given two guests, and a builder and a Manager that may each die once
    world = World(sides=(Side(), Side()))
    # When all that can happen in eleven steps is tried
    found = explore(world, Steps(Bounds()), check, depth=11)
    # Then many states were met, and none breaks a rule
    assert found.states > 10_000
    assert not found.violation


@pytest.mark.parametrize("row", list(TABLE), ids=" ".join)
def test_no_row_of_the_table_is_idle(row: tuple[State, Event]) -> None:
    # Given the table without one of its rows
    table = {each: step for each, step in TABLE.items() if each != row}
    # When every state of one launch is visited
    found = explored(table)
    # Then the explorer meets the event that nobody takes
    assert found.violation
    assert found.trace


def test_a_vtpm_that_serves_a_rebooted_guest_is_found() -> None:
    # Given a table that gives a rebooted guest the vTPM that it had (R2)
    step = Step(to=State.COUPLED, do=(Action.CREATE_GUEST_PAUSED,))
    # When it is explored
    found = explored(with_row(State.RUNNING, Event.GUEST_REBOOTED, step))
    # Then a second guest meets the old vTPM, or the old vTPM's end leaves it alone
    assert found.violation


def test_a_guest_that_runs_before_its_vtpm_is_ready_is_found() -> None:
    # Given a table that creates the guest without waiting for the vTPM
    early = Step(to=State.COUPLED, do=(Action.FORK_VTPM, Action.CREATE_GUEST_PAUSED))
    # When it is explored
    found = explored(with_row(State.MEASURED, Event.PAIR_OPENED, early))
    # Then it is refused
    assert found.violation


def test_a_stop_that_is_forgotten_is_found_with_a_shortest_trace() -> None:
    # Given a table whose stop of a running guest does nothing
    idle = Step(to=State.CLOSING)
    # When it is explored
    found = explored(with_row(State.RUNNING, Event.STOP_ASKED, idle))
    # Then the pair is seen to stay, and the trace names the stop that nobody carried out
    assert found.violation.endswith("stays closing for ever")
    assert f"0: builder takes {Event.STOP_ASKED}" in found.trace


def test_a_lost_process_is_found_when_the_journal_is_not_written() -> None:
    # Given a table that forgets to end what is left of a pair after its guest is gone
    step = Step(to=State.ENDED)
    # When it is explored
    found = explored(with_row(State.COUPLED, Event.GUEST_GONE, step))
    # Then a vTPM is seen that lives on without a guest
    assert found.violation.startswith("guest 0: I4")
