"""The builder's actions, each as what may come of it.

A task is what is left of a row's actions; the builder may die before each part of it.  Each
function takes the side without the task, and gives every outcome of the task's first part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from model.world import Guest, Key, Launch, Micro, Side, Task, Vtpm, guest_lives, vtpm_lives
from tandem.builder.lifecycle import Action, Event, State

Named = Iterator[tuple[str, Side]]


def carried_out(side: Side, task: Task, *, manager: bool) -> Named:
    """Carry out the first part of a task; what is left waits again."""
    first, rest = task[0], task[1:]
    if first is Action.OPEN_PAIR and not rest:
        yield from _open_pair(side, manager=manager)
    elif first is Action.CLOSE_PAIR:
        closed = side.launch._replace(opened=False, key=Key.DEAD) if manager else side.launch
        yield "closes the pair", with_task(side._replace(launch=closed), rest)
    elif first in _BEFORE_OTHERS:
        yield from _BEFORE_OTHERS[first](side, rest)
    elif first in _IN_ROWS:
        name, after = _IN_ROWS[first](side)
        yield name, with_task(after, rest)
    elif rest:
        raise ValueError(f"the model has {first.name} at the end of a row only")
    else:
        yield from _ALONE[first](side)


def _measure(side: Side) -> Named:
    yield "measures", posted(side, Event.MEASUREMENT_MATCHED)
    yield "measures something else", posted(side, Event.MEASUREMENT_DIFFERED)


def _open_pair(side: Side, *, manager: bool) -> Named:
    """Ask the Manager for the launch: it knows which vTPMs are open, and sees ends first."""
    old = side.orphan
    taken = old is not None and old.opened and not hung_up(old)
    if not manager or taken:
        yield "is refused the pair", posted(side, Event.PAIR_REFUSED)
        return
    opened = side.launch._replace(opened=True, key=Key.WITH_BUILDER)
    yield "opens the pair", posted(side._replace(launch=opened), Event.PAIR_OPENED)


def _fork_vtpm(side: Side) -> Named:
    launch = side.launch
    yield "cannot fork the vTPM", posted(side, Event.VTPM_GONE)
    key = Key.WITH_VTPM if launch.key is Key.WITH_BUILDER else launch.key
    forked = side._replace(launch=launch._replace(vtpm=Vtpm.STARTING, key=key))
    yield "forks the vTPM", with_task(forked, (Micro.JOURNAL_VTPM,))


def _journal_vtpm(side: Side) -> Named:
    yield "writes the vTPM down", side._replace(launch=side.launch._replace(journal_vtpm=True))


def _create_guest(side: Side) -> Named:
    launch = side.launch
    yield "cannot create the guest", posted(side, Event.GUEST_GONE)
    if vtpm_lives(launch):
        created = launch._replace(guest=Guest.PAUSED, guests=launch.guests + 1)
        after = side._replace(launch=created)
        yield "creates the guest", with_task(after, (Micro.REPORT_GUEST,))


def _report_guest(side: Side) -> Named:
    noted = side._replace(launch=side.launch._replace(noted_guest=True))
    yield "reports the guest", posted(noted, Event.GUEST_CREATED)


def _resume_guest(side: Side, rest: Task) -> Named:
    """Tell the vTPM its guest, once; where a half is gone, its end is an event of its own."""
    launch = side.launch
    if not vtpm_lives(launch) or not guest_lives(launch):
        yield "has nothing to let run", with_task(side, rest)
        return
    coupled = side._replace(launch=launch._replace(coupled=True))
    yield "tells the vTPM its guest", with_task(coupled, (Micro.LET_RUN, *rest))


def _let_run(side: Side, rest: Task) -> Named:
    if guest_lives(side.launch):
        yield "cannot let the guest run", posted(side, Event.GUEST_UNRULY)
    yield "lets the guest run", with_task(_held_as_wanted(side), rest)


def _pause_guest(side: Side) -> Named:
    if guest_lives(side.launch):
        yield "cannot pause the guest", posted(side, Event.RESUME_ASKED)
    yield "pauses the guest", _held_as_wanted(side)


def _held_as_wanted(side: Side) -> Side:
    """Pause the guest or let it run as the builder's state says now, whichever task is late."""
    launch = side.launch
    if not guest_lives(launch):
        return side
    runs = launch.coupled and side.memory is not State.PAUSED
    return side._replace(launch=launch._replace(guest=Guest.RUNNING if runs else Guest.PAUSED))


def _stop_guest(side: Side) -> Named:
    yield "asks the guest to stop", with_task(side, (Micro.EXPIRE,))
    if guest_lives(side.launch):
        yield "cannot ask the guest to stop", posted(side, Event.GUEST_UNRULY)


def _expire(side: Side) -> Named:
    ended = side.memory in (None, State.ENDED)
    yield "waited long enough", side if ended else posted(side, Event.GUEST_UNRULY)


def _kill_guest(side: Side) -> tuple[str, Side]:
    killed = side.launch._replace(guest=Guest.GONE) if guest_lives(side.launch) else side.launch
    return "kills the guest", side._replace(launch=killed)


def _end_vtpm(side: Side) -> tuple[str, Side]:
    ended = side.launch._replace(vtpm=Vtpm.GONE) if vtpm_lives(side.launch) else side.launch
    return "ends the vTPM", side._replace(launch=ended)


def _start_again(side: Side) -> tuple[str, Side]:
    return "will start again", side._replace(again=True)


_ALONE: Final[Mapping[Action | Micro, Callable[[Side], Named]]] = {  # the only part of their row
    Action.MEASURE: _measure,
    Action.FORK_VTPM: _fork_vtpm,
    Micro.JOURNAL_VTPM: _journal_vtpm,
    Action.CREATE_GUEST_PAUSED: _create_guest,
    Micro.REPORT_GUEST: _report_guest,
    Action.PAUSE_GUEST: _pause_guest,
    Action.STOP_GUEST: _stop_guest,
    Micro.EXPIRE: _expire,
}
_BEFORE_OTHERS: Final[Mapping[Action | Micro, Callable[[Side, Task], Named]]] = {
    Action.RESUME_GUEST: _resume_guest,
    Micro.LET_RUN: _let_run,
}
_IN_ROWS: Final[Mapping[Action | Micro, Callable[[Side], tuple[str, Side]]]] = {
    Action.KILL_GUEST: _kill_guest,
    Action.END_VTPM: _end_vtpm,
    Action.START_AGAIN: _start_again,
}


def hung_up(launch: Launch) -> bool:
    """Whether nobody holds the vTPM's end of the key channel."""
    return launch.key is Key.WITH_VTPM and not vtpm_lives(launch)


def posted(side: Side, event: Event) -> Side:
    """Give the side with one more event in the builder's queue."""
    return side._replace(queue=(*side.queue, event))


def with_task(side: Side, task: Task) -> Side:
    """Give the side with one more task under way; their order says nothing, so it is fixed."""
    return side._replace(tasks=tuple(sorted((*side.tasks, task), key=str))) if task else side
