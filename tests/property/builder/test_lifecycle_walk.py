"""Every interleaving of what a pair can meet, walked through to the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tandem.builder.lifecycle import TABLE, WISHES, Action, Event, State, decide


@dataclass(frozen=True, kw_only=True)
class World:
    """A pair and what is true outside of the builder; events are reports of it."""

    state: State = State.PLANNED
    asked: bool = False  # the start
    measuring: bool = False
    opening: bool = False
    open: bool = False  # at the Manager
    vtpm: str = "none"  # none, starting, ready, gone
    guest: str = "none"  # none, creating, alive, gone
    led: bool = False  # the guest is being asked for something that it may not do
    stopped: bool = False  # somebody asked for the end

    @property
    def empty(self) -> bool:
        return (
            not (self.measuring or self.opening or self.open)
            and self.vtpm in ("none", "gone")
            and self.guest in ("none", "gone")
        )


def own_events(  # noqa: C901 (one case for each event)
    world: World,
) -> Iterator[tuple[Event, World]]:
    """Give what can happen by itself."""
    if not world.asked:
        yield Event.START_ASKED, replace(world, asked=True)
    if world.measuring:
        yield Event.MEASUREMENT_MATCHED, replace(world, measuring=False)
        yield Event.MEASUREMENT_DIFFERED, replace(world, measuring=False)
    if world.opening:
        yield Event.PAIR_OPENED, replace(world, opening=False, open=True)
        yield Event.PAIR_REFUSED, replace(world, opening=False)
    if world.vtpm == "starting":
        yield Event.VTPM_READY, replace(world, vtpm="ready")
    if world.vtpm in ("starting", "ready"):
        yield Event.VTPM_GONE, replace(world, vtpm="gone")
    if world.guest == "creating":
        yield Event.GUEST_CREATED, replace(world, guest="alive")
        yield Event.GUEST_GONE, replace(world, guest="gone")
    if world.guest == "alive":
        yield Event.GUEST_GONE, replace(world, guest="gone")
        yield Event.GUEST_REBOOTED, replace(world, guest="gone")
    if world.led:  # also late, when the guest is gone
        yield Event.GUEST_UNRULY, replace(world, led=False)


def asked_events(world: World) -> Iterator[tuple[Event, World]]:
    """Give what somebody may ask for at any time after the start."""
    if world.asked:
        yield Event.STOP_ASKED, replace(world, stopped=True)
        yield Event.KILL_ASKED, replace(world, stopped=True)
    if world.state in (State.RUNNING, State.PAUSED):  # elsewhere these may be refused
        yield from ((event, world) for event in sorted(WISHES))


def carry_out(world: World, action: Action) -> World:  # noqa: C901 (one case for each action)
    """Begin an action, and check that it may begin here."""
    match action:
        case Action.MEASURE:
            return replace(world, measuring=True)
        case Action.OPEN_PAIR:
            return replace(world, opening=True)
        case Action.CLOSE_PAIR:
            assert world.open
            return replace(world, open=False)
        case Action.FORK_VTPM:
            assert world.open
            assert world.vtpm == "none"
            return replace(world, vtpm="starting")
        case Action.CREATE_GUEST_PAUSED:
            assert world.vtpm == "ready"
            assert world.guest == "none"
            return replace(world, guest="creating")
        case Action.RESUME_GUEST:
            assert world.guest in ("alive", "gone")
            return replace(world, led=True)
        case Action.START_AGAIN:
            assert world.empty
            assert not world.stopped
        case Action.STOP_GUEST | Action.PAUSE_GUEST:
            return replace(world, led=True)
        case Action.END_VTPM | Action.KILL_GUEST:
            pass  # what they bring about is an event of its own
    return world


def follow(world: World, event: Event) -> World:
    step = decide(world.state, event)
    world = replace(world, state=step.to)
    for action in step.do:
        world = carry_out(world, action)
    return world


def reachable() -> dict[World, list[World]]:
    """Walk breadth first; `decide` refuses nothing on the way, or the test fails there."""
    found: dict[World, list[World]] = {}
    due = deque([World()])
    while due:
        world = due.popleft()
        if world in found:
            continue
        found[world] = []
        if world.state is not State.ENDED:
            for event, after in [*own_events(world), *asked_events(world)]:
                next_world = follow(after, event)
                found[world].append(next_world)
                due.append(next_world)
    return found


def test_no_order_of_events_leaves_half_a_pair() -> None:
    # Given every world that any order of events can reach
    worlds = reachable()
    # When those are taken whose pair has ended
    ended = [world for world in worlds if world.state is State.ENDED]
    # Then nothing of the pair is left in any of them
    assert ended
    assert [world for world in ended if not world.empty] == []


def test_no_world_waits_for_something_that_cannot_come() -> None:
    # Given every world whose pair has not ended
    worlds = [world for world in reachable() if world.state is not State.ENDED]
    # When nobody asks for anything
    stuck = [world for world in worlds if not list(own_events(world))]
    # Then there is always something still to come by itself
    assert stuck == []


def test_every_world_can_come_to_its_end() -> None:
    # Given every world and the ones that follow it
    follows = reachable()
    # When the ends are traced back
    ending = {world for world in follows if world.state is State.ENDED}
    grown = True
    while grown:
        more = {world for world, after in follows.items() if ending.intersection(after)} - ending
        ending |= more
        grown = bool(more)
    # Then they lead back to every world
    assert ending == follows.keys()


def test_every_row_of_the_table_can_happen() -> None:
    # Given every world
    # When each event that can come to it is noted
    met = {
        (world.state, event)
        for world in reachable()
        if world.state is not State.ENDED
        for event, _ in [*own_events(world), *asked_events(world)]
    }
    # Then no row is there for nothing
    assert TABLE.keys() - met == set()
