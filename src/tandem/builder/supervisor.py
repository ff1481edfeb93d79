"""Supervisor: events in, `decide`, actions out.  The only loop over pairs.

The new state is stored before its actions begin.  A failed action becomes an event like any other;
a defect is not caught here: it ends the builder, whose guests run on and are adopted.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import TaskGroup
from collections.abc import Iterable
from functools import partial
from typing import Final

from tandem.builder.actions import Actions
from tandem.builder.attendance import Living
from tandem.builder.door import knock
from tandem.builder.endings import UNEXPECTED, Ending
from tandem.builder.journal import PairEntry
from tandem.builder.lifecycle import TABLE, WISHES, Action, Event, State, decide
from tandem.builder.pair import Order, Pair, found_pair, new_pair
from tandem.builder.remains import ask_to_end, holders
from tandem.errors import HostError, Refused, TandemError, UsageError
from tandem.hypervisor.driver import End
from tandem.hypervisor.process import ProcessName, find
from tandem.log import get_logger

KEPT_ENDINGS: Final = 1000
STOPPING: Final = frozenset({State.CLOSING, State.RESTARTING})
WHOLE: Final = frozenset({State.RUNNING, State.PAUSED}) | STOPPING
COMES_AGAIN: Final = frozenset({State.RESTARTING, State.REBOOTING, State.RESTARTED_GUEST_LEFT})
MAX_SLOTS: Final = 0x4000
SHORTEST_LIFE: Final = 1.0  # seconds; a guest that reboots sooner waits for the rest of it
ADOPT_SECONDS: Final = 20.0  # vTPMs wait AWAY_SECONDS for a Manager, which is attended after this
STOP_SECONDS: Final = 10.0  # for guests when the builder is told to end
FAILED: Final = {
    Action.MEASURE: Event.MEASUREMENT_DIFFERED,
    Action.OPEN_PAIR: Event.PAIR_REFUSED,
    Action.FORK_VTPM: Event.VTPM_GONE,
    Action.CREATE_GUEST_PAUSED: Event.GUEST_GONE,
    Action.RESUME_GUEST: Event.GUEST_UNRULY,
    Action.PAUSE_GUEST: Event.RESUME_ASKED,
    Action.STOP_GUEST: Event.GUEST_UNRULY,
}
log = get_logger("builder")


class Supervisor:
    """Every pair of this host, by the name of its guest."""

    def __init__(self, actions: Actions, tasks: TaskGroup) -> None:
        self._actions = actions
        self._tasks = tasks
        self._pairs: dict[str, Pair] = {}
        self._endings: dict[str, Ending] = {}
        self._ending = False

    def pairs(self) -> list[Pair]:
        """Give every pair that has not ended."""
        return list(self._pairs.values())

    def living(self) -> list[Living]:
        """Give the vTPMs that live, for a Manager that was started again."""
        return [
            Living(
                pair_id=bytes.fromhex(pair.entry.pair_id),
                vtpm=pair.guest_name,
                status=pair.holds.status,
            )
            for pair in self._pairs.values()
            if pair.holds.vtpm is not None and pair.holds.vtpm.alive
        ]

    def pair(self, guest: str) -> Pair:
        """Give a guest's pair."""
        if guest not in self._pairs:
            last = self._endings.get(guest)
            why = f": {last.words}, {time.time() - last.ended_at:.0f} s ago" if last else ""
            raise UsageError(
                "TDM-GUEST-UNKNOWN",
                f"no guest {guest} runs{why}",
                hint="see which do with `tandem guest list`",
            )
        return self._pairs[guest]

    def endings(self) -> list[Ending]:
        """Give how the newest pair of each guest ended, as far as this builder saw it."""
        return list(self._endings.values())

    def start(self, order: Order) -> Pair:
        """Begin the launch of a guest; it runs once `pair.running` is set."""
        if order.guest in self._pairs:
            raise Refused(
                "TDM-GUEST-RUNNING",
                f"guest {order.guest} is {self._pairs[order.guest].state} already",
                hint=f"stop it first: tandem guest stop {order.guest}",
            )
        if self._ending:
            raise Refused(
                "TDM-HOST-ENDING", "the builder is stopping its guests", hint="start it anew first"
            )
        pair = new_pair(order, self._free_slot())
        self._pairs[order.guest] = pair
        pair.post(Event.START_ASKED)
        self._tasks.create_task(self._drive(pair))
        return pair

    async def stop(self, pair: Pair, *, kill: bool, seconds: float) -> None:
        """Stop a guest and wait until its pair has ended."""
        pair.stop_seconds = seconds
        pair.asked = Event.KILL_ASKED if kill else Event.STOP_ASKED
        pair.post(pair.asked)
        await pair.ended.wait()

    async def pause(self, pair: Pair) -> None:
        """Stop a guest's processors; its vTPM stays, and waits for it."""
        await asyncio.shield(pair.request(Event.PAUSE_ASKED))

    async def resume(self, pair: Pair) -> None:
        """Let a paused guest go on."""
        await asyncio.shield(pair.request(Event.RESUME_ASKED))

    async def restart(self, pair: Pair, *, seconds: float) -> Pair:
        """Stop a guest, and give the new pair that it starts again as."""
        pair.stop_seconds = seconds
        await asyncio.shield(pair.request(Event.RESTART_ASKED))
        if pair.asked is None:
            pair.asked = Event.RESTART_ASKED
        if pair.successor is None:
            pair.successor = asyncio.get_running_loop().create_future()
        return await asyncio.shield(pair.successor)

    async def end(self) -> None:
        """Stop every guest in order; nothing can be started any more."""
        self._ending = True
        async with TaskGroup() as stopping:
            for pair in self.pairs():
                stopping.create_task(self.stop(pair, kill=False, seconds=STOP_SECONDS))

    async def adopt(self) -> None:
        """Take up the pairs that an earlier builder left running, and clear away all else."""
        found = dict(self._actions.journal.entries())
        found |= dict.fromkeys(set(self._actions.directories.pairs()) - found.keys())
        again: list[Pair] = []
        async with TaskGroup() as taking_up:  # one hypervisor that hangs holds up no other's pair
            for pair_id, entry in found.items():
                taking_up.create_task(self._take_up(pair_id, entry, again))
        for pair in again:  # not sooner, or it would be given a slot that an adopted pair has
            self._tasks.create_task(self._start_again(pair))

    async def _drive(self, pair: Pair) -> None:
        """Take one event after the other until the pair has ended, then clear it away."""
        actions: list[asyncio.Task[TandemError | None]] = []
        while pair.state is not State.ENDED:
            event = await pair.events.get()
            request = pair.requests.pop(event, None)
            if event in WISHES and (pair.state, event) not in TABLE:
                _refuse(pair, event, request)
                continue
            step = decide(pair.state, event)
            log.info("pair.stepped", guest=pair.guest_name, pair=pair.entry.pair_id,
                     met=event.value, state=step.to.value)  # fmt: skip
            pair.note_met(event, step.to)
            self._actions.store(pair)
            doing = self._tasks.create_task(self._carry_out(pair, step.do))
            actions.append(doing)
            if request is not None:
                doing.add_done_callback(partial(_answer, request))
        await asyncio.gather(*actions)
        await self._actions.clear_away(pair)
        del self._pairs[pair.guest_name]
        self._remember(pair)
        again = pair.start_again and not self._ending
        if again:
            self._tasks.create_task(self._start_again(pair))
        for event, request in pair.requests.items():
            _refuse(pair, event, request)
        if pair.successor is not None and not again:
            pair.successor.set_exception(_not_restarted(pair))
        pair.note_ended()

    async def _carry_out(self, pair: Pair, actions: Iterable[Action]) -> TandemError | None:
        """Carry the actions out in order; the first that fails ends the row, and is given."""
        for action in actions:
            try:
                await self._actions.carry_out(action, pair)
            except (TandemError, OSError) as problem:
                error = problem if isinstance(problem, TandemError) else short_of(problem)
                log.warning("pair.failed", guest=pair.guest_name, pair=pair.entry.pair_id,
                            action=action.value, **error.as_record())  # fmt: skip
                if action is not Action.PAUSE_GUEST:  # which is taken back, and the guest runs on
                    pair.fail(error)
                if action in FAILED:
                    pair.post(FAILED[action])
                return error
        return None

    def _remember(self, pair: Pair) -> None:
        """Keep how the pair ended, in place of its guest's older endings."""
        ending = pair.ending()
        tell = log.warning if ending.reason in UNEXPECTED else log.info
        tell("pair.ended", guest=ending.guest, pair=ending.pair_id, reason=ending.reason,
             problem=ending.words, code=ending.code)  # fmt: skip
        self._endings.pop(ending.guest, None)
        self._endings[ending.guest] = ending
        while len(self._endings) > KEPT_ENDINGS:
            del self._endings[next(iter(self._endings))]

    async def _start_again(self, last: Pair) -> None:
        """Start a rebooted guest as a new pair."""
        await asyncio.sleep(max(0.0, SHORTEST_LIFE - (time.monotonic() - last.begun)))
        try:
            successor = self.start(last.order)
        except Refused as error:  # somebody else was faster, or the builder ends
            log.warning("pair.not-restarted", guest=last.guest_name, **error.as_record())
            if last.successor is not None:
                last.successor.set_exception(error)
            return
        if last.successor is not None:
            last.successor.set_result(successor)

    async def _take_up(self, pair_id: str, entry: PairEntry | None, again: list[Pair]) -> None:
        """Adopt a pair, or end what is left of it; `again` gets it where it is to start anew."""
        if entry is None:
            await self._clear_unknown(pair_id)
        elif not await self._adopt(entry):
            pair = found_pair(entry)
            if self._comes_again(pair):
                again.append(pair)
            await self._clear_away(pair)

    async def _adopt(self, entry: PairEntry) -> bool:
        """Take one pair up again; False when it does not run."""
        vtpm, hypervisor = find(entry.vtpm), find(entry.hypervisor)
        if entry.state not in WHOLE or vtpm is None or hypervisor is None:
            return False
        pair = found_pair(entry)
        pair.holds.vtpm, pair.holds.hypervisor = vtpm, hypervisor
        directory = self._actions.directories.pair(entry.pair_id)
        try:
            async with asyncio.timeout(ADOPT_SECONDS):
                guest = await self._actions.hypervisor.adopt(directory, hypervisor)
                pair.holds.guest = guest
                # The builder may have died between the state and its action.
                await (guest.pause() if pair.state is State.PAUSED else guest.resume())
            pair.holds.status = knock(directory)
        except (HostError, TimeoutError) as problem:
            error = problem if isinstance(problem, HostError) else _hangs(entry.guest)
            log.warning("pair.not-adopted", guest=entry.guest, **error.as_record())
            return False
        pair.coupled = True  # or its vTPM had ended with that builder
        pair.note_running()
        self._pairs[entry.guest] = pair
        self._tasks.create_task(self._actions.watch_vtpm(pair, vtpm, ready=True))
        self._tasks.create_task(self._actions.watch_guest(pair))
        if pair.state in STOPPING:  # nobody knows how much of its time is over
            pair.stop_seconds = STOP_SECONDS
            self._tasks.create_task(self._carry_out(pair, (Action.STOP_GUEST,)))
        self._tasks.create_task(self._drive(pair))
        log.info("pair.adopted", guest=entry.guest, pair=entry.pair_id)
        return True

    async def _clear_unknown(self, pair_id: str) -> None:
        """End and remove what is left of a pair that no entry of this boot describes."""
        directory = self._actions.directories.pair(pair_id)
        await ask_to_end(directory)
        for name in holders(directory):
            await _end(name)
        self._actions.directories.remove_pair(pair_id)
        self._actions.journal.remove(pair_id)

    async def _clear_away(self, pair: Pair) -> None:
        """End what is left of a pair, and remove what it left."""
        for name in (pair.entry.vtpm, pair.entry.hypervisor):
            await _end(name)
        await self._actions.close_pair(pair)
        await self._actions.clear_away(pair)
        log.info("pair.cleared-away", guest=pair.guest_name, pair=pair.entry.pair_id)

    def _comes_again(self, pair: Pair) -> bool:
        """Whether a guest that no builder heard go was to start again, or wanted to by itself."""
        if pair.state in COMES_AGAIN:
            return True
        if pair.state not in (State.RUNNING, State.PAUSED, State.GUEST_LEFT):
            return False
        gone = find(pair.entry.hypervisor) is None  # one that lives lost its vTPM: it asked nothing
        directory = self._actions.directories.pair(pair.entry.pair_id)
        return gone and self._actions.hypervisor.last_end(directory) is End.REBOOT

    def _free_slot(self) -> int:
        """Give the lowest slot, so users, that no pair has."""
        taken = {pair.entry.slot for pair in self._pairs.values()}
        return next(slot for slot in range(MAX_SLOTS) if slot not in taken)


async def _end(name: ProcessName) -> None:
    """End a process that an earlier builder left, if it lives."""
    process = find(name)
    if process is not None:
        process.kill()
        await process.wait()


def short_of(problem: OSError) -> HostError:
    """Say what the system did not give; that must not end the other pairs' builder."""
    return HostError(
        "TDM-BUILDER-SHORT",
        f"the system did not let the builder act: {problem.strerror or problem}",
        hint="look at the host's limits of open files, processes and memory, then start again",
    )


def _refuse(pair: Pair, event: Event, request: asyncio.Future[None] | None) -> None:
    """Tell whoever asked that the pair is not where this could be done."""
    if request is not None:
        request.set_exception(
            Refused(
                "TDM-GUEST-NOT-RUNNING",
                f"guest {pair.guest_name} is {pair.state}: no {event.removesuffix('_asked')} now",
                hint="see where it stands with `tandem guest list`",
            )
        )


def _answer(request: asyncio.Future[None], done: asyncio.Task[TandemError | None]) -> None:
    """Tell whoever asked what came of it."""
    failure = done.result()
    if failure is None:
        request.set_result(None)
    else:
        request.set_exception(failure)


def _hangs(guest: str) -> HostError:
    return HostError(
        "TDM-QEMU-MONITOR",
        f"the hypervisor of guest {guest} did not answer its new builder in {ADOPT_SECONDS:.0f} s",
        hint="the guest is ended: start it again",
    )


def _not_restarted(pair: Pair) -> Refused:
    return Refused(
        "TDM-GUEST-NOT-RESTARTED",
        f"guest {pair.guest_name} ended and was not started again: {pair.ending().words}",
        hint=f"start it: tandem guest start {pair.guest_name} --entry {pair.order.entry}",
    )
