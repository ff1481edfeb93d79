"""What the model sees of a host: builder, Manager, and for each guest its pair's two processes.

Everything is a tuple, so that a state is hashable and small.  What the kernel does by itself
(`settled`) is an assumption here; the integration tests show it with real processes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from tandem.builder.lifecycle import Action, Event, State


class Vtpm(IntEnum):
    """A vTPM's process."""

    ABSENT = 0
    STARTING = 1
    READY = 2
    GONE = 3


class Guest(IntEnum):
    """A hypervisor's process, and how its guest left."""

    ABSENT = 0
    PAUSED = 1  # before its first instruction, or since
    RUNNING = 2
    GONE = 3
    REBOOTED = 4  # gone, and its last wish was a reset


class Key(IntEnum):
    """A launch's key channel, seen from the vTPM's end."""

    ABSENT = 0
    WITH_BUILDER = 1
    WITH_VTPM = 2
    DEAD = 3  # the Manager's end, or its process, is gone


class Micro(IntEnum):
    """What the builder does between two lines of an action, where it may die in between."""

    JOURNAL_VTPM = 0  # write the vTPM's process id
    REPORT_GUEST = 1  # the hypervisor runs: report it
    LET_RUN = 2  # the vTPM knows its guest: let the guest run
    EXPIRE = 3  # the time for an orderly stop is over


Task = tuple[Action | Micro, ...]


class Launch(NamedTuple):
    """One launch: its processes, and what builder and Manager know of it."""

    opened: bool = False  # in the Manager's memory
    key: Key = Key.ABSENT
    vtpm: Vtpm = Vtpm.ABSENT
    orphaned: bool = False  # the builder that forked the vTPM is gone
    coupled: bool = False  # the vTPM was told which process its guest is
    guest: Guest = Guest.ABSENT
    guests: int = 0  # hypervisors that were ever given this vTPM
    journal: State | None = None
    journal_vtpm: bool = False
    noted_guest: bool = False  # in the builder's memory, stored with the next state
    journal_guest: bool = False
    heard: frozenset[Event] = frozenset()  # reports that reached the builder's queue


class Side(NamedTuple):
    """A guest's name: what the builder does for it, its newest launch, what an older one left."""

    memory: State | None = None  # the builder's state of the pair; None where it has none
    queue: tuple[Event, ...] = ()
    tasks: tuple[Task, ...] = ()
    again: bool = False
    asks: int = 0  # stops and kills that were asked for in this launch
    wishes: int = 0  # pauses, resumptions and restarts, likewise
    restart: bool = False  # a restart was granted
    given_up: bool = False  # the guest did not do as it was told to
    launches: int = 0
    launch: Launch = Launch()
    orphan: Launch | None = None


class World(NamedTuple):
    """A host."""

    builder: bool = True
    manager: bool = True
    builder_deaths: int = 0
    manager_deaths: int = 0
    sides: tuple[Side, ...] = (Side(),)


GONE: Final = (Guest.GONE, Guest.REBOOTED)


def vtpm_lives(launch: Launch) -> bool:
    """Whether the vTPM's process exists."""
    return launch.vtpm in (Vtpm.STARTING, Vtpm.READY)


def guest_lives(launch: Launch) -> bool:
    """Whether the hypervisor's process exists."""
    return launch.guest in (Guest.PAUSED, Guest.RUNNING)


def settled(launch: Launch) -> Launch:
    """Give the launch after all that the kernel, and the vTPM by itself, do within a second."""
    if launch.vtpm is Vtpm.GONE and guest_lives(launch):  # PID 1 of their namespace is gone
        launch = launch._replace(guest=Guest.GONE)
    ended = launch.guest in GONE
    given_up = launch.orphaned and not launch.coupled
    if vtpm_lives(launch) and (ended or given_up):  # it saw a pidfd or a socket end
        return settled(launch._replace(vtpm=Vtpm.GONE))
    return launch


def due_reports(launch: Launch) -> list[Event]:
    """Give what the builder's watches have not reported yet: each once, at any time after it."""
    due = []
    if launch.vtpm is Vtpm.READY:
        due.append(Event.VTPM_READY)
    if launch.vtpm is Vtpm.GONE and launch.journal_vtpm:
        due.append(Event.VTPM_GONE)
    if launch.guest in GONE and launch.noted_guest:
        left = launch.guest is Guest.GONE
        due.append(Event.GUEST_GONE if left else Event.GUEST_REBOOTED)
    return [event for event in due if event not in launch.heard]
