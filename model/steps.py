"""Every step that a host can take next: people, guests, processes, crashes, notices, the builder.

The builder's own steps go through the lifecycle's table and nothing else, as the supervisor's do:
take an event, store the state, then carry the row's actions out beside those under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from model.actions import Named, carried_out, hung_up, posted, with_task
from model.explore import Broken
from model.world import (
    Guest,
    Key,
    Launch,
    Side,
    Vtpm,
    World,
    due_reports,
    guest_lives,
    settled,
    vtpm_lives,
)
from tandem.builder.lifecycle import TABLE, WISHES, Action, Event, State, Step

Table = Mapping[tuple[State, Event], Step]
STOPPING = (State.CLOSING, State.RESTARTING)
ADOPTED = (State.RUNNING, State.PAUSED, *STOPPING)
COMES_AGAIN = (State.RESTARTING, State.REBOOTING, State.RESTARTED_GUEST_LEFT)
ENTERTAINED = (State.RUNNING, State.PAUSED)  # each wish must be granted here; elsewhere it may not


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much may happen; without them the states would be without end."""

    launches: int = 2  # of each guest
    asks: int = 2  # stops and kills of each launch
    wishes: int = 1  # pauses, resumptions and restarts of each launch
    builder_deaths: int = 1
    manager_deaths: int = 1


class Steps:
    """The steps of a host whose builder follows `table`."""

    def __init__(self, bounds: Bounds, table: Table = TABLE) -> None:
        self._bounds = bounds
        self._table = table

    def __call__(self, world: World) -> Iterator[tuple[str, World]]:
        """Give each step that is possible, named, with the world after it."""
        yield from self._crashes(world)
        for number, side in enumerate(world.sides):
            for name, after in self._of(world, side):
                sides = (*world.sides[:number], after, *world.sides[number + 1 :])
                yield f"{number}: {name}", world._replace(sides=sides)

    def _crashes(self, world: World) -> Iterator[tuple[str, World]]:
        if world.builder:
            if world.builder_deaths < self._bounds.builder_deaths:
                yield (
                    "builder dies",
                    world._replace(
                        builder=False,
                        builder_deaths=world.builder_deaths + 1,
                        sides=tuple(_without_builder(side) for side in world.sides),
                    ),
                )
        else:
            yield (
                "builder starts and adopts",
                world._replace(
                    builder=True, sides=tuple(_adopted(side, self._bounds) for side in world.sides)
                ),
            )
        if world.manager:
            if world.manager_deaths < self._bounds.manager_deaths:
                yield (
                    "Manager dies",
                    world._replace(
                        manager=False,
                        manager_deaths=world.manager_deaths + 1,
                        sides=tuple(_without_manager(side) for side in world.sides),
                    ),
                )
        else:
            yield "Manager starts", world._replace(manager=True)

    def _of(self, world: World, side: Side) -> Named:
        yield from _processes(side)
        if world.manager:
            yield from _manager(side)
        if world.builder:
            yield from self._asked(side)
            yield from _notices(side)
            yield from self._builder(side, manager=world.manager)

    def _asked(self, side: Side) -> Named:
        if side.memory is None:
            if side.launches < self._bounds.launches:
                yield "a start is asked", _started(side)
            return
        if side.memory is not State.ENDED and side.asks < self._bounds.asks:
            for event in (Event.STOP_ASKED, Event.KILL_ASKED):
                yield event.value, posted(side, event)._replace(asks=side.asks + 1)
        if side.memory in ENTERTAINED and side.wishes < self._bounds.wishes:
            for event in sorted(WISHES):
                yield event.value, posted(side, event)._replace(wishes=side.wishes + 1)

    def _builder(self, side: Side, *, manager: bool) -> Named:
        if side.memory is State.ENDED:
            if not side.tasks:
                yield "the pair is cleared away", _cleared(side, self._bounds)
        elif side.queue and side.memory is not None:
            yield f"builder takes {side.queue[0]}", self._decided(side, side.memory)
        for number, task in enumerate(side.tasks):
            others = (*side.tasks[:number], *side.tasks[number + 1 :])
            for name, after in carried_out(side._replace(tasks=others), task, manager=manager):
                yield f"builder: {name}", after

    def _decided(self, side: Side, state: State) -> Side:
        event = side.queue[0]
        step = self._table.get((state, event))
        if step is None and event in WISHES and state not in ENTERTAINED:
            return side._replace(queue=side.queue[1:])  # refused, to whoever asked
        if step is None:
            raise Broken(f"the table has no row for {event} in a pair that is {state}")
        restart = side.restart or event is Event.RESTART_ASKED
        given_up = side.given_up or (event is Event.GUEST_UNRULY and state in ENTERTAINED)
        launch = side.launch
        if launch.journal is not None or launch.opened or launch.key is not Key.ABSENT:
            launch = launch._replace(journal=step.to, journal_guest=launch.noted_guest)
        side = side._replace(
            memory=step.to, queue=side.queue[1:], launch=launch, restart=restart, given_up=given_up
        )
        return with_task(side, step.do)


def _processes(side: Side) -> Named:
    """What processes do by themselves, and what the kernel and the vTPM do at once after it."""
    launch = side.launch
    if launch.vtpm is Vtpm.STARTING and launch.key is Key.WITH_VTPM:
        yield "vTPM is ready", side._replace(launch=launch._replace(vtpm=Vtpm.READY))
    if vtpm_lives(launch):
        yield "vTPM dies", side._replace(launch=launch._replace(vtpm=Vtpm.GONE))
    if guest_lives(launch):
        yield "guest leaves", side._replace(launch=launch._replace(guest=Guest.GONE))
    if launch.guest is Guest.RUNNING:
        yield "guest reboots", side._replace(launch=launch._replace(guest=Guest.REBOOTED))
    yield from _other_halves(side)


def _other_halves(side: Side) -> Named:
    calm = settled(side.launch)
    if calm != side.launch:
        yield "the other half goes", side._replace(launch=calm)
    if side.orphan is not None:
        calm = settled(side.orphan)
        if calm != side.orphan:
            yield "what an old launch left goes", side._replace(orphan=calm)


def _manager(side: Side) -> Named:
    """The Manager sees that a key channel is closed."""
    for place in ("launch", "orphan"):
        launch = getattr(side, place)
        if launch is not None and launch.opened and hung_up(launch):
            closed = launch._replace(opened=False, key=Key.DEAD)
            yield "Manager sees a vTPM's end", side._replace(**{place: closed})


def _notices(side: Side) -> Named:
    """What the builder's watches report."""
    if side.memory is None or side.memory is State.ENDED:
        return
    launch = side.launch
    for event in due_reports(launch):
        heard = launch._replace(heard=launch.heard | {event})
        yield f"builder hears {event}", posted(side, event)._replace(launch=heard)


def _started(side: Side) -> Side:
    fresh = Side(
        memory=State.PLANNED,
        launches=side.launches + 1,
        orphan=_left(side),
    )
    return posted(fresh, Event.START_ASKED)


def _left(side: Side) -> Launch | None:
    """Give the older launch of which something may still be there."""
    for launch in (side.launch, side.orphan):
        if launch is not None and (vtpm_lives(launch) or guest_lives(launch) or launch.opened):
            return launch
    return None


def _cleared(side: Side, bounds: Bounds) -> Side:
    """Give back what the pair took; a guest that rebooted starts again as a new pair."""
    launch = side.launch
    if launch.key is Key.WITH_BUILDER:
        launch = launch._replace(key=Key.DEAD, opened=False)
    launch = launch._replace(journal=None, journal_vtpm=False, journal_guest=False)
    after = Side(launches=side.launches, launch=launch, orphan=side.orphan)
    return _started(after) if side.again and side.launches < bounds.launches else after


def _without_builder(side: Side) -> Side:
    """What is left when the builder is gone: processes and journal."""
    launch = side.launch
    if launch.key is Key.WITH_BUILDER:
        launch = launch._replace(key=Key.DEAD, opened=False)
    launch = launch._replace(orphaned=True, noted_guest=False, heard=frozenset())
    return Side(launches=side.launches, launch=launch, orphan=side.orphan)


def _without_manager(side: Side) -> Side:
    def lost(launch: Launch) -> Launch:
        key = launch.key if launch.key is Key.ABSENT else Key.DEAD
        return launch._replace(opened=False, key=key)

    orphan = None if side.orphan is None else lost(side.orphan)
    return side._replace(launch=lost(side.launch), orphan=orphan)


def _adopted(side: Side, bounds: Bounds) -> Side:
    """A new builder takes up what runs, ends what it finds half made, and starts again what was to.

    Of a guest that went while no builder lived, the hypervisor's own record says whether it reset.
    """
    launch = side.launch
    if launch.journal is None:
        return side
    whole = launch.journal_vtpm and launch.journal_guest
    if launch.journal in ADOPTED and whole and vtpm_lives(launch) and guest_lives(launch):
        adopted = side._replace(
            memory=launch.journal,
            restart=launch.journal is State.RESTARTING,
            given_up=launch.journal is State.CLOSING,
            launch=launch._replace(
                guest=Guest.PAUSED if launch.journal is State.PAUSED else Guest.RUNNING,
                noted_guest=True,
                heard=frozenset({Event.VTPM_READY}),
            ),
        )
        return with_task(adopted, (Action.STOP_GUEST,) if launch.journal in STOPPING else ())
    left = launch.journal in (State.RUNNING, State.PAUSED, State.GUEST_LEFT)
    again = launch.journal in COMES_AGAIN or (left and launch.guest is Guest.REBOOTED)
    if launch.journal_vtpm and vtpm_lives(launch):
        launch = settled(launch._replace(vtpm=Vtpm.GONE))
    if launch.journal_guest and guest_lives(launch):
        launch = launch._replace(guest=Guest.GONE)
    launch = launch._replace(journal=None, journal_vtpm=False, journal_guest=False)
    after = side._replace(launch=launch)
    return _started(after) if again and side.launches < bounds.launches else after
