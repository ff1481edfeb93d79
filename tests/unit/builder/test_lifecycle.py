"""The table of the pair's life: what it promises row by row."""

from __future__ import annotations

import pytest

from tandem.builder.lifecycle import TABLE, Action, Event, State, decide, markdown_rows
from tandem.errors import Refused


def test_a_pair_that_never_meets_trouble_goes_the_straight_way() -> None:
    # Given the events of a launch and of a power-off, in order
    events = [
        *(Event.START_ASKED, Event.MEASUREMENT_MATCHED, Event.PAIR_OPENED),
        *(Event.VTPM_READY, Event.GUEST_CREATED, Event.GUEST_GONE, Event.VTPM_GONE),
    ]
    # When each is decided upon
    state = State.PLANNED
    done: list[Action] = []
    for event in events:
        step = decide(state, event)
        state = step.to
        done += step.do
    # Then the pair ends, and each half was started and ended once
    assert state is State.ENDED
    assert done == [
        *(Action.MEASURE, Action.OPEN_PAIR, Action.FORK_VTPM, Action.CREATE_GUEST_PAUSED),
        *(Action.RESUME_GUEST, Action.END_VTPM, Action.CLOSE_PAIR),
    ]


def test_a_guest_that_differs_from_its_library_starts_nothing() -> None:
    # Given a pair whose inputs are being measured
    # When they differ
    step = decide(State.MEASURING, Event.MEASUREMENT_DIFFERED)
    # Then it has ended, with nothing to undo
    assert step.to is State.ENDED
    assert step.do == ()


@pytest.mark.parametrize("first", [Event.GUEST_REBOOTED, Event.VTPM_GONE])
def test_a_reboot_is_a_new_pair_whichever_half_is_seen_to_leave_first(first: Event) -> None:
    # Given a running pair whose guest resets itself
    second = Event.VTPM_GONE if first is Event.GUEST_REBOOTED else Event.GUEST_REBOOTED
    # When both halves are gone
    step = decide(decide(State.RUNNING, first).to, second)
    # Then the launch is closed before the guest starts again
    assert step.to is State.ENDED
    assert step.do == (Action.CLOSE_PAIR, Action.START_AGAIN)


def test_a_guest_that_is_being_stopped_does_not_come_back_by_rebooting() -> None:
    # Given a pair that is being stopped
    # When its guest reboots instead of powering off
    steps = [decide(State.CLOSING, Event.GUEST_REBOOTED)]
    steps.append(decide(steps[0].to, Event.VTPM_GONE))
    # Then nothing starts again
    assert Action.START_AGAIN not in [action for step in steps for action in step.do]


def test_an_event_out_of_place_is_refused_and_names_what_is_possible() -> None:
    # Given a pair that only begins
    # When it is told that its guest is gone
    with pytest.raises(Refused) as refused:
        decide(State.PLANNED, Event.GUEST_GONE)
    # Then the refusal says what could come instead
    assert refused.value.code == "TDM-PAIR-EVENT-OUT-OF-PLACE"
    assert "start_asked" in refused.value.hint


def test_the_reference_page_has_every_row() -> None:
    # Given the table
    # When it is printed
    rows = list(markdown_rows())
    # Then there is a line for each row below the two of the heading
    assert len(rows) == len(TABLE) + 2
