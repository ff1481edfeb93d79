"""Life of a pair: one launch of a guest with its vTPM, which start, end and fail together.

The table below is the whole behaviour.  `decide` looks a row up; the supervisor stores the new
state first and then carries the actions out in order, so that a builder that dies half-way finds
its place again.  Nothing here touches a guest, a vTPM or a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from types import MappingProxyType
from typing import Final

from tandem.errors import Refused


class State(StrEnum):
    """Where a pair stands; the value is what the journal stores."""

    PLANNED = auto()  # asked for, nothing started
    MEASURING = auto()  # the inputs of the launch are hashed and compared with the library
    MEASURED = auto()  # they agree; the Manager is being asked to open the pair
    OPENED = auto()  # the Manager vouches for the pair; the vTPM is being forked
    COUPLED = auto()  # the vTPM holds the launch measurement; the guest is being created, paused
    RUNNING = auto()  # both halves run
    PAUSED = auto()  # both halves live, the guest's processors are stopped; its vTPM waits for it
    CLOSING = auto()  # both halves run, the guest is being stopped
    RESTARTING = auto()  # as closing, and the guest is to start again
    VTPM_LEFT = auto()  # the guest is gone, its vTPM is being ended
    REBOOTING = auto()  # the guest left in order to start again, its vTPM is being ended
    GUEST_LEFT = auto()  # the vTPM is gone, its guest is dying, perhaps of a reboot of its own
    STOPPED_GUEST_LEFT = auto()  # the vTPM is gone, its guest is dying and must not come again
    RESTARTED_GUEST_LEFT = auto()  # the vTPM is gone, its guest is dying and will come again
    ABANDONED = auto()  # given up before there was a vTPM; an answer is still due
    ENDED = auto()  # nothing runs; the next launch, a reboot too, is a new pair


class Event(StrEnum):
    """What a pair can meet."""

    START_ASKED = auto()
    STOP_ASKED = auto()  # in order: the guest's system is asked
    KILL_ASKED = auto()  # at once
    PAUSE_ASKED = auto()
    RESUME_ASKED = auto()
    RESTART_ASKED = auto()  # the guest's system is asked to stop, and the guest started again
    MEASUREMENT_MATCHED = auto()
    MEASUREMENT_DIFFERED = auto()
    PAIR_OPENED = auto()
    PAIR_REFUSED = auto()
    VTPM_READY = auto()
    VTPM_GONE = auto()
    GUEST_CREATED = auto()
    GUEST_GONE = auto()
    GUEST_REBOOTED = auto()  # gone as well, and the guest's last wish was a reset
    GUEST_UNRULY = auto()  # lives and does not follow: its system is slow, or its hypervisor hangs


class Action(StrEnum):
    """What the supervisor carries out."""

    MEASURE = auto()
    OPEN_PAIR = auto()
    CLOSE_PAIR = auto()
    FORK_VTPM = auto()
    END_VTPM = auto()  # wipes the volatile state with it
    CREATE_GUEST_PAUSED = auto()
    RESUME_GUEST = auto()  # at first, and after a pause
    PAUSE_GUEST = auto()
    STOP_GUEST = auto()
    KILL_GUEST = auto()
    START_AGAIN = auto()  # as a new pair


@dataclass(frozen=True, kw_only=True)
class Step:
    """The state that follows, and what to do once it is stored."""

    to: State
    do: tuple[Action, ...] = ()


def _step(to: State, *do: Action) -> Step:
    return Step(to=to, do=do)


S, E, A = State, Event, Action
WISHES: Final = frozenset({E.PAUSE_ASKED, E.RESUME_ASKED, E.RESTART_ASKED})
"""What may be asked of a whole pair only: refused, to whoever asked, where the table has no row."""

TABLE: Final[Mapping[tuple[State, Event], Step]] = MappingProxyType({
    (S.PLANNED, E.START_ASKED): _step(S.MEASURING, A.MEASURE),
    (S.MEASURING, E.MEASUREMENT_MATCHED): _step(S.MEASURED, A.OPEN_PAIR),
    (S.MEASURING, E.MEASUREMENT_DIFFERED): _step(S.ENDED),
    (S.MEASURING, E.STOP_ASKED): _step(S.ABANDONED),
    (S.MEASURING, E.KILL_ASKED): _step(S.ABANDONED),
    (S.MEASURED, E.PAIR_OPENED): _step(S.OPENED, A.FORK_VTPM),
    (S.MEASURED, E.PAIR_REFUSED): _step(S.ENDED),
    (S.MEASURED, E.STOP_ASKED): _step(S.ABANDONED),
    (S.MEASURED, E.KILL_ASKED): _step(S.ABANDONED),
    (S.ABANDONED, E.MEASUREMENT_MATCHED): _step(S.ENDED),
    (S.ABANDONED, E.MEASUREMENT_DIFFERED): _step(S.ENDED),
    (S.ABANDONED, E.PAIR_OPENED): _step(S.ENDED, A.CLOSE_PAIR),
    (S.ABANDONED, E.PAIR_REFUSED): _step(S.ENDED),
    (S.ABANDONED, E.STOP_ASKED): _step(S.ABANDONED),
    (S.ABANDONED, E.KILL_ASKED): _step(S.ABANDONED),
    (S.OPENED, E.VTPM_READY): _step(S.COUPLED, A.CREATE_GUEST_PAUSED),
    (S.OPENED, E.VTPM_GONE): _step(S.ENDED, A.CLOSE_PAIR),
    (S.OPENED, E.STOP_ASKED): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.OPENED, E.KILL_ASKED): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.COUPLED, E.GUEST_CREATED): _step(S.RUNNING, A.RESUME_GUEST),
    (S.COUPLED, E.GUEST_GONE): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.COUPLED, E.VTPM_GONE): _step(S.STOPPED_GUEST_LEFT, A.KILL_GUEST),
    (S.COUPLED, E.STOP_ASKED): _step(S.CLOSING, A.KILL_GUEST),
    (S.COUPLED, E.KILL_ASKED): _step(S.CLOSING, A.KILL_GUEST),
    (S.RUNNING, E.GUEST_GONE): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.RUNNING, E.GUEST_REBOOTED): _step(S.REBOOTING, A.END_VTPM),
    (S.RUNNING, E.VTPM_GONE): _step(S.GUEST_LEFT, A.KILL_GUEST),
    (S.RUNNING, E.STOP_ASKED): _step(S.CLOSING, A.STOP_GUEST),
    (S.RUNNING, E.KILL_ASKED): _step(S.CLOSING, A.KILL_GUEST),
    (S.RUNNING, E.RESTART_ASKED): _step(S.RESTARTING, A.STOP_GUEST),
    (S.RUNNING, E.PAUSE_ASKED): _step(S.PAUSED, A.PAUSE_GUEST),
    (S.RUNNING, E.RESUME_ASKED): _step(S.RUNNING),
    (S.RUNNING, E.GUEST_UNRULY): _step(S.CLOSING, A.KILL_GUEST),
    (S.PAUSED, E.RESUME_ASKED): _step(S.RUNNING, A.RESUME_GUEST),
    (S.PAUSED, E.PAUSE_ASKED): _step(S.PAUSED),
    (S.PAUSED, E.GUEST_GONE): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.PAUSED, E.GUEST_REBOOTED): _step(S.REBOOTING, A.END_VTPM),  # just before the pause
    (S.PAUSED, E.VTPM_GONE): _step(S.GUEST_LEFT, A.KILL_GUEST),
    (S.PAUSED, E.STOP_ASKED): _step(S.CLOSING, A.RESUME_GUEST, A.STOP_GUEST),  # it must run for it
    (S.PAUSED, E.KILL_ASKED): _step(S.CLOSING, A.KILL_GUEST),
    (S.PAUSED, E.GUEST_UNRULY): _step(S.CLOSING, A.KILL_GUEST),
    (S.PAUSED, E.RESTART_ASKED): _step(S.RESTARTING, A.RESUME_GUEST, A.STOP_GUEST),
    (S.CLOSING, E.GUEST_CREATED): _step(S.CLOSING, A.KILL_GUEST),  # created after the stop
    (S.CLOSING, E.GUEST_GONE): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.CLOSING, E.GUEST_REBOOTED): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.CLOSING, E.VTPM_GONE): _step(S.STOPPED_GUEST_LEFT, A.KILL_GUEST),
    (S.CLOSING, E.STOP_ASKED): _step(S.CLOSING, A.STOP_GUEST),
    (S.CLOSING, E.KILL_ASKED): _step(S.CLOSING, A.KILL_GUEST),
    (S.CLOSING, E.GUEST_UNRULY): _step(S.CLOSING, A.KILL_GUEST),
    (S.RESTARTING, E.GUEST_GONE): _step(S.REBOOTING, A.END_VTPM),
    (S.RESTARTING, E.GUEST_REBOOTED): _step(S.REBOOTING, A.END_VTPM),
    (S.RESTARTING, E.VTPM_GONE): _step(S.RESTARTED_GUEST_LEFT, A.KILL_GUEST),
    (S.RESTARTING, E.STOP_ASKED): _step(S.CLOSING),  # its system was asked already
    (S.RESTARTING, E.KILL_ASKED): _step(S.CLOSING, A.KILL_GUEST),
    (S.RESTARTING, E.GUEST_UNRULY): _step(S.RESTARTING, A.KILL_GUEST),
    (S.VTPM_LEFT, E.VTPM_READY): _step(S.VTPM_LEFT, A.END_VTPM),  # ready after the stop
    (S.VTPM_LEFT, E.VTPM_GONE): _step(S.ENDED, A.CLOSE_PAIR),
    (S.VTPM_LEFT, E.STOP_ASKED): _step(S.VTPM_LEFT),
    (S.VTPM_LEFT, E.KILL_ASKED): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.VTPM_LEFT, E.GUEST_UNRULY): _step(S.VTPM_LEFT),
    (S.REBOOTING, E.VTPM_GONE): _step(S.ENDED, A.CLOSE_PAIR, A.START_AGAIN),
    (S.REBOOTING, E.STOP_ASKED): _step(S.VTPM_LEFT),
    (S.REBOOTING, E.KILL_ASKED): _step(S.VTPM_LEFT, A.END_VTPM),
    (S.REBOOTING, E.GUEST_UNRULY): _step(S.REBOOTING),
    (S.GUEST_LEFT, E.GUEST_GONE): _step(S.ENDED, A.CLOSE_PAIR),
    (S.GUEST_LEFT, E.GUEST_REBOOTED): _step(S.ENDED, A.CLOSE_PAIR, A.START_AGAIN),
    (S.GUEST_LEFT, E.STOP_ASKED): _step(S.STOPPED_GUEST_LEFT, A.KILL_GUEST),
    (S.GUEST_LEFT, E.KILL_ASKED): _step(S.STOPPED_GUEST_LEFT, A.KILL_GUEST),
    (S.GUEST_LEFT, E.GUEST_UNRULY): _step(S.GUEST_LEFT),
    (S.STOPPED_GUEST_LEFT, E.GUEST_CREATED): _step(S.STOPPED_GUEST_LEFT, A.KILL_GUEST),
    (S.STOPPED_GUEST_LEFT, E.GUEST_GONE): _step(S.ENDED, A.CLOSE_PAIR),
    (S.STOPPED_GUEST_LEFT, E.GUEST_REBOOTED): _step(S.ENDED, A.CLOSE_PAIR),
    (S.STOPPED_GUEST_LEFT, E.STOP_ASKED): _step(S.STOPPED_GUEST_LEFT),
    (S.STOPPED_GUEST_LEFT, E.KILL_ASKED): _step(S.STOPPED_GUEST_LEFT, A.KILL_GUEST),
    (S.STOPPED_GUEST_LEFT, E.GUEST_UNRULY): _step(S.STOPPED_GUEST_LEFT),
    (S.RESTARTED_GUEST_LEFT, E.GUEST_GONE): _step(S.ENDED, A.CLOSE_PAIR, A.START_AGAIN),
    (S.RESTARTED_GUEST_LEFT, E.GUEST_REBOOTED): _step(S.ENDED, A.CLOSE_PAIR, A.START_AGAIN),
    (S.RESTARTED_GUEST_LEFT, E.STOP_ASKED): _step(S.STOPPED_GUEST_LEFT),
    (S.RESTARTED_GUEST_LEFT, E.KILL_ASKED): _step(S.STOPPED_GUEST_LEFT),
    (S.RESTARTED_GUEST_LEFT, E.GUEST_UNRULY): _step(S.RESTARTED_GUEST_LEFT),
})  # fmt: skip


def decide(state: State, event: Event) -> Step:
    """Give the step that follows `event`, or refuse it."""
    step = TABLE.get((state, event))
    if step is None:
        allowed = ", ".join(sorted(other for at, other in TABLE if at is state)) or "nothing"
        raise Refused(
            "TDM-PAIR-EVENT-OUT-OF-PLACE",
            f"a {state} pair cannot take the event {event}",
            hint=f"from {state} these are possible: {allowed}",
        )
    return step


def markdown_rows() -> Iterator[str]:
    """Give the table as the reference page prints it."""
    yield "| state | event | next state | actions |"
    yield "| ----- | ----- | ---------- | ------- |"
    for (state, event), step in TABLE.items():
        yield f"| {state} | {event} | {step.to} | {', '.join(step.do) or '-'} |"


def mermaid_lines() -> Iterator[str]:
    """Give the table as a picture (a Mermaid state diagram), one arrow between two states."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), step in TABLE.items():
        if step.to is not state:
            arrows.setdefault((state, step.to), []).append(event)
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.PLANNED}"
    for (state, to), events in arrows.items():
        yield f"    {state} --> {to}: {', '.join(events)}"
    yield f"    {State.ENDED} --> [*]"
    yield "```"
