"""What must hold in every state that a host can reach (DESIGN, section 3, I1 to I5)."""

from __future__ import annotations

from typing import Final

from model.world import (
    Guest,
    Launch,
    Side,
    Vtpm,
    World,
    due_reports,
    guest_lives,
    settled,
    vtpm_lives,
)
from tandem.builder.lifecycle import Event, State

LAUNCHING: Final = (  # states in which a vTPM may be without a guest: before it, and after
    *(State.OPENED, State.COUPLED, State.CLOSING, State.VTPM_LEFT, State.REBOOTING),
    *(State.STOPPED_GUEST_LEFT, State.RESTARTED_GUEST_LEFT),
)


def check(world: World) -> str:
    """Name the first rule that a state breaks; empty where it breaks none."""
    for number, side in enumerate(world.sides):
        problem = _broken_by(side, world)
        if problem:
            return f"guest {number}: {problem}"
    return ""


def _broken_by(side: Side, world: World) -> str:
    for launch in (side.launch, side.orphan):
        if launch is not None and (problem := _broken_by_launch(launch)):
            return problem
    if side.orphan is not None and _in_use(side.orphan) and _in_use(side.launch):
        return "I5: two vTPM processes hold a usable key of one vTPM"
    return _broken_together(side, world) or _stuck(side, world) or _forgotten(side)


def _broken_by_launch(launch: Launch) -> str:
    if launch.guests > 1:
        return "I1, I2: a second guest was given a vTPM that had served another"
    if launch.guest is Guest.RUNNING and launch.vtpm is Vtpm.STARTING:
        return "I3: a guest runs before its vTPM holds the launch measurement"
    if settled(launch).guest is Guest.RUNNING and not launch.coupled:
        return "I4: a guest runs whose vTPM was not told who its guest is"
    return ""


def _broken_together(side: Side, world: World) -> str:
    """I4: once the kernel has done its part, no half of a pair is left alone or unknown."""
    launch = settled(side.launch)
    if guest_lives(launch) and not vtpm_lives(launch):
        return "I4: a guest lives without its vTPM"
    awaited = world.builder and (side.memory in LAUNCHING or side.tasks)
    if vtpm_lives(launch) and not guest_lives(launch) and not awaited:
        return "I4: a vTPM lives without a guest, and nobody is to give it one or to end it"
    if side.orphan is not None:
        left = settled(side.orphan)
        if guest_lives(left) or vtpm_lives(left):
            return "I4: a pair lives on that no builder knows"
    unknown = world.builder and side.memory is None
    if unknown and (guest_lives(launch) or vtpm_lives(launch)):
        return "I4: a pair lives that the builder does not know"
    return ""


def _in_use(launch: Launch) -> bool:
    return launch.opened and vtpm_lives(launch)


def _forgotten(side: Side) -> str:
    """Name a guest that rebooted, or was to, and does not come again though nobody ended it."""
    ending = side.asks or side.given_up
    over = side.memory is State.ENDED and not side.tasks and not ending
    rebooted = Event.GUEST_REBOOTED in side.launch.heard or side.restart
    return (
        "a guest that rebooted is not started again" if over and rebooted and not side.again else ""
    )


def _stuck(side: Side, world: World) -> str:
    """Name a pair that neither runs nor has ended, with nothing left to happen by itself."""
    paused = side.launch.guest is Guest.PAUSED
    as_wanted = {State.RUNNING: not paused, State.PAUSED: side.launch.guest is not Guest.RUNNING}
    resting = side.memory in (None, State.ENDED) or as_wanted.get(side.memory, False)
    if not world.builder or resting or side.queue or side.tasks:
        return ""
    launch = side.launch
    changes = settled(launch) != launch or launch.vtpm is Vtpm.STARTING
    if changes or due_reports(launch):
        return ""
    return f"the pair stays {side.memory} for ever"
