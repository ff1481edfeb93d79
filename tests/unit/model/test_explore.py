"""The explorer finds what is wrong with a table, and says how it came about."""

from __future__ import annotations

import pytest

from model.__main__ import noticed
from model.explore import Explored, explore
from model.invariants import check
from model.steps import Bounds, Steps, Table
from model.world import Guest, Key, Launch, Side, Vtpm, World
from tandem.builder.lifecycle import TABLE, Action, Event, State, Step

ENDED_ONCE = Bounds(launches=1, asks=1, wishes=0)


def explored(table: Table, bounds: Bounds = ENDED_ONCE) -> Explored:
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
    # When every state of one launch is visited
    # Then the explorer meets the event that nobody takes
    assert noticed(row)


def test_a_vtpm_that_serves_a_rebooted_guest_is_found() -> None:
    # Given a table that gives a rebooted guest the vTPM that it had (R2)
    step = Step(to=State.COUPLED, do=(Action.CREATE_GUEST_PAUSED,))
    # When it is explored
    found = explored(with_row(State.RUNNING, Event.GUEST_REBOOTED, step))
    # Then a second guest is seen to be given the old vTPM
    assert found.violation.startswith("guest 0: I1, I2")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((State.COUPLED, Event.GUEST_CREATED), "stays running for ever"),  # paused, for ever
        ((State.REBOOTING, Event.VTPM_GONE), "is not started again"),
        ((State.CLOSING, Event.GUEST_CREATED), "stays closing for ever"),
        ((State.VTPM_LEFT, Event.VTPM_READY), "stays vtpm_left for ever"),
        ((State.RUNNING, Event.PAUSE_ASKED), "stays paused for ever"),  # running, for ever
        ((State.PAUSED, Event.RESUME_ASKED), "stays running for ever"),
        ((State.RUNNING, Event.RESTART_ASKED), "stays restarting for ever"),
        ((State.RESTARTED_GUEST_LEFT, Event.GUEST_GONE), "is not started again"),
    ],
)
def test_an_action_that_is_forgotten_is_found(row: tuple[State, Event], problem: str) -> None:
    # Given a table with a row that only changes the state
    table = with_row(*row, Step(to=TABLE[row].to))
    # When it is explored
    # Then what is left undone is found
    wished = Bounds(launches=1, asks=0, wishes=2, builder_deaths=0)
    found = [explored(table, bounds).violation for bounds in (ENDED_ONCE, wished)]
    assert any(each.endswith(problem) for each in found)


def test_a_row_that_the_model_does_not_know_is_no_result() -> None:
    # Given a row with an action in front of others that the model has at a row's end only
    row = Step(to=State.COUPLED, do=(Action.FORK_VTPM, Action.CREATE_GUEST_PAUSED))
    # When it is explored
    # Then it is refused, and not taken for half of it
    with pytest.raises(ValueError, match="FORK_VTPM"):
        explored(with_row(State.MEASURED, Event.PAIR_OPENED, row))


RUNS = Launch(
    opened=True, key=Key.WITH_VTPM, vtpm=Vtpm.READY, coupled=True, guest=Guest.RUNNING, guests=1
)


@pytest.mark.parametrize(
    ("side", "problem"),
    [
        (Side(memory=State.RUNNING, launch=RUNS._replace(guests=2)), "I1, I2"),
        (Side(memory=State.RUNNING, launch=RUNS._replace(vtpm=Vtpm.STARTING)), "I3"),
        (Side(memory=State.RUNNING, launch=RUNS._replace(coupled=False)), "I4: a guest runs whose"),
        (Side(memory=State.RUNNING, launch=RUNS, orphan=RUNS), "I5"),
        (Side(memory=None, launch=RUNS), "I4: a pair lives that the builder does not know"),
        (Side(memory=State.RUNNING, launch=RUNS, orphan=RUNS._replace(opened=False)), "I4"),
        (
            Side(launch=Launch(vtpm=Vtpm.READY)),
            "I4: a vTPM lives without a guest",
        ),
    ],
)
def test_each_rule_names_a_world_that_breaks_it(side: Side, problem: str) -> None:
    # Given a host that is in a state which no host may reach
    # When it is checked
    # Then the rule is named
    assert check(World(sides=(side,))).startswith(f"guest 0: {problem}")


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
