"""One pair: what was asked for, where it stands, and what it holds until it has ended."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tandem.builder.endings import Ending, Heard, judge
from tandem.builder.entry_inputs import EntryInputs
from tandem.builder.journal import FORMAT, PairEntry
from tandem.builder.library import Library
from tandem.builder.lifecycle import Event, State
from tandem.builder.measure import Launch
from tandem.channel import Channel
from tandem.errors import HostError, Refused, TandemError
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.launch_plan import Accelerator
from tandem.hypervisor.driver import End, Guest, Identity
from tandem.hypervisor.process import Process, boot_id

RESTORE: Final = "restore the newest copy of the vTPM's directory; older ones stay closed"
REFUSALS: Final = ("TDM-STATE-MISSING", "TDM-STATE-OLDER", "TDM-STATE-DAMAGED")
ADVICE: Final = dict.fromkeys(REFUSALS, RESTORE) | {
    "TDM-STATE-UNREADABLE": "look at the vTPM's directory: its owner, its mode, its file system",
    "TDM-STATE-NOT-WRITTEN": "make room below the host's directory, then start the guest again",
}
TIMELINE_MOST: Final = 64
OTHER_ADVICE: Final = "see run/builder.log of the host, and the reference page of this code"
GIVEN_UP: Final = HostError(
    "TDM-PAIR-GIVEN-UP",
    "the start was given up",
    hint="start the guest again",
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody asked to start."""

    guest: str
    entry: str
    manifest: Path
    keys: tuple[bytes, ...]  # PEM, trusted for this library beside the host's


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """An order, looked up, measured and found as signed."""

    library: Library
    entry: GuestEntry
    accelerator: Accelerator
    hypervisor: Identity  # as measured
    launch: Launch


@dataclass(kw_only=True)
class Holdings:
    """What a pair takes and gives back; None is what it has not, or no longer."""

    inputs: EntryInputs | None = None
    key_channel: int | None = None
    control: int | None = None  # the hypervisor's end of the vTPM's control channel
    status: Channel | None = None
    vtpm: Process | None = None
    hypervisor: Process | None = None
    guest: Guest | None = None

    def close_launch(self) -> None:
        """Close what only the start needs."""
        if self.inputs is not None:
            self.inputs.close()
        for descriptor in (self.key_channel, self.control):
            if descriptor is not None:
                os.close(descriptor)
        self.inputs = self.key_channel = self.control = None

    async def close(self) -> None:
        """Close everything; the processes are gone or live on by themselves."""
        self.close_launch()
        if self.status is not None:
            self.status.close()
            self.status = None
        if self.guest is not None:
            await self.guest.close()
            self.guest = None


@dataclass(kw_only=True)
class Pair:
    """One launch of a guest with its vTPM."""

    order: Order
    entry: PairEntry
    state: State = State.PLANNED
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    holds: Holdings = field(default_factory=Holdings)
    resolved: Resolved | None = None
    begun: float = field(default_factory=time.monotonic)
    failure: TandemError | None = None
    coupled: bool = False  # the vTPM knows which process its guest is
    leading: asyncio.Lock = field(default_factory=asyncio.Lock)  # one order at a time to the guest
    asked: Event | None = None  # the newest end that somebody asked for
    heard_end: End | None = None  # what the guest's hypervisor said, or not, as it went
    vtpm_code: str | None = None  # what the vTPM said as it went; None: it cannot be heard
    requests: dict[Event, asyncio.Future[None]] = field(default_factory=dict)
    successor: asyncio.Future[Pair] | None = None  # of a restart: the pair that follows
    start_again: bool = False
    unstored: bool = False  # the journal could not be written
    stop_seconds: float = 0.0
    running: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    steps: asyncio.Queue[tuple[str, int] | None] = field(default_factory=asyncio.Queue)

    @property
    def guest_name(self) -> str:
        """The guest's name, which one pair at a time has."""
        return self.order.guest

    def post(self, event: Event) -> None:
        """Report what the pair met."""
        self.events.put_nowait(event)

    def request(self, event: Event) -> asyncio.Future[None]:
        """Post what somebody asks for; the future tells what came of it, to all who ask at once."""
        if event not in self.requests:
            self.requests[event] = asyncio.get_running_loop().create_future()
            self.post(event)
        return self.requests[event]

    def note(self, **changes: object) -> None:
        """Change what the journal will hold."""
        self.entry = replace(self.entry, **changes)  # type: ignore[arg-type]

    def note_met(self, event: Event, state: State) -> None:
        """Take the state that follows an event, and keep both in the time line."""
        self.state = state
        met = f"{time.time_ns() // 1_000_000} {event} {state}"
        self.note(state=state.value, timeline=(*self.entry.timeline, met)[-TIMELINE_MOST:])

    def note_step(self, step: str) -> None:
        """Remember when a step of the start was done, in microseconds from its beginning."""
        microseconds = int((time.monotonic() - self.begun) * 1_000_000)
        self.note(times={**self.entry.times, step: microseconds})
        self.steps.put_nowait((step, microseconds))

    def note_running(self) -> None:
        """Tell that the start is over, well."""
        self.running.set()
        self.steps.put_nowait(None)

    def note_ended(self) -> None:
        """Tell that nothing of the pair is left."""
        self.ended.set()
        self.steps.put_nowait(None)

    def running_guest(self) -> Guest:
        """Give the machine, once it runs."""
        if self.holds.guest is None or not self.running.is_set():
            raise Refused(
                "TDM-GUEST-NOT-RUNNING",
                f"guest {self.guest_name} is {self.state}",
                hint="wait until it runs, see `tandem guest list`",
            )
        return self.holds.guest

    def fail(self, error: TandemError) -> None:
        """Remember why the pair does not come about; the first reason is the reason."""
        if self.failure is None:
            self.failure = error

    def hear_last_words(self, code: str, reason: str) -> None:
        """Take the vTPM's own reason for its end, if it ends before the guest runs."""
        if self.state in (State.OPENED, State.COUPLED):
            family = Refused if code in REFUSALS else HostError
            self.failure = family(code, reason, hint=ADVICE.get(code, OTHER_ADVICE))

    def ending(self) -> Ending:
        """Say why the pair is gone."""
        heard = Heard(
            failure=self.failure,
            asked=self.asked,
            guest=self.heard_end,
            vtpm_code=self.vtpm_code,
        )
        reason, words, code = judge(heard)
        return Ending(
            guest=self.guest_name,
            pair_id=self.entry.pair_id,
            launch_number=self.entry.launch_number,
            ended_at=round(time.time(), 3),
            reason=reason.value,
            words=words,
            code=code,
        )

    def why_not_running(self) -> TandemError:
        """Give the error for whoever waited for the guest to run."""
        return self.failure or GIVEN_UP


def new_pair(order: Order, slot: int) -> Pair:
    """Plan a pair; it has no identity until the Manager opens it."""
    entry = PairEntry(
        format=FORMAT,
        boot=boot_id(),
        state=State.PLANNED.value,
        guest=order.guest,
        entry=order.entry,
        manifest=str(order.manifest),
        keys=tuple(key.decode("latin-1") for key in order.keys),
        pair_id="",
        launch_number=0,
        slot=slot,
        ephemeral=False,
        accelerator="",
        launch_log="",
        vtpm_pid=0,
        vtpm_start_time=0,
        hypervisor_pid=0,
        hypervisor_start_time=0,
        started_at=int(time.time()),
        times={},
        timeline=(),
    )
    return Pair(order=order, entry=entry)


def found_pair(entry: PairEntry) -> Pair:
    """Take a pair up again as the journal knows it."""
    order = Order(
        guest=entry.guest,
        entry=entry.entry,
        manifest=Path(entry.manifest),
        keys=tuple(key.encode("latin-1") for key in entry.keys),
    )
    return Pair(order=order, entry=entry, state=State(entry.state))
