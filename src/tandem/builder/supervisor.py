"""Supervisor: events in, `decide`, actions out.  The only loop over pairs.

The new state is stored before its actions begin.  A failed action becomes an event like any other;
a defect is not caught here: it ends the builder, whose guests run on and are adopted.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import TaskGroup
from collections.abc import Iterable
from typing import Final

from tandem.builder.actions import Actions
from tandem.builder.journal import PairEntry
from tandem.builder.lifecycle import Action, Event, State, decide
from tandem.builder.pair import Order, Pair, found_pair, new_pair
from tandem.errors import HostError, Refused, TandemError, UsageError
from tandem.hypervisor.process import find
from tandem.log import get_logger

MAX_SLOTS: Final = 0x4000
SHORTEST_LIFE: Final = 1.0  # seconds; a guest that reboots sooner waits for the rest of it
STOP_SECONDS: Final = 10.0  # for guests when the builder is told to end
FAILED: Final = {
    Action.MEASURE: Event.MEASUREMENT_DIFFERED,
    Action.OPEN_PAIR: Event.PAIR_REFUSED,
    Action.FORK_VTPM: Event.VTPM_GONE,
    Action.CREATE_GUEST_PAUSED: Event.GUEST_GONE,
    Action.RESUME_GUEST: Event.KILL_ASKED,
    Action.STOP_GUEST: Event.KILL_ASKED,
}
log = get_logger("builder")


class Supervisor:
    """Every pair of this host, by the name of its guest."""

    def __init__(self, actions: Actions, tasks: TaskGroup) -> None:
        self._actions = actions
        self._tasks = tasks
        self._pairs: dict[str, Pair] = {}
        self._ending = False

    def pairs(self) -> list[Pair]:
        """Give every pair that has not ended."""
        return list(self._pairs.values())

    def pair(self, guest: str) -> Pair:
        """Give a guest's pair."""
        if guest not in self._pairs:
            raise UsageError(
                "TDM-GUEST-UNKNOWN",
                f"no guest {guest} runs",
                hint="see which do with `tandem guest list`",
            )
        return self._pairs[guest]

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
        pair.post(Event.KILL_ASKED if kill else Event.STOP_ASKED)
        await pair.ended.wait()

    async def end(self) -> None:
        """Stop every guest in order; nothing can be started any more."""
        self._ending = True
        async with TaskGroup() as stopping:
            for pair in self.pairs():
                stopping.create_task(self.stop(pair, kill=False, seconds=STOP_SECONDS))

    async def adopt(self) -> None:
        """Take up the pairs that an earlier builder left running, and clear away all else."""
        known = list(self._actions.journal.entries())
        for pair_id, entry in known:
            if entry is None or not await self._adopt(entry):
                await self._clear_away(pair_id, entry)
        for pair_id in set(self._actions.directories.pairs()) - {each for each, _ in known}:
            self._actions.directories.remove_pair(pair_id)

    async def _drive(self, pair: Pair) -> None:
        """Take one event after the other until the pair has ended, then clear it away."""
        actions: list[asyncio.Task[None]] = []
        while pair.state is not State.ENDED:
            event = await pair.events.get()
            step = decide(pair.state, event)
            log.info("pair.stepped", guest=pair.guest_name, pair=pair.entry.pair_id,
                     met=event.value, state=step.to.value)  # fmt: skip
            pair.note_met(event, step.to)
            self._actions.store(pair)
            actions.append(self._tasks.create_task(self._carry_out(pair, step.do)))
        await asyncio.gather(*actions)
        await self._actions.clear_away(pair)
        del self._pairs[pair.guest_name]
        if pair.start_again and not self._ending:
            self._tasks.create_task(self._start_again(pair))
        pair.note_ended()

    async def _carry_out(self, pair: Pair, actions: Iterable[Action]) -> None:
        """Carry the actions out in order; the first that fails ends the row."""
        for action in actions:
            try:
                await self._actions.carry_out(action, pair)
            except TandemError as error:
                log.warning("pair.failed", guest=pair.guest_name, pair=pair.entry.pair_id,
                            action=action.value, **error.as_record())  # fmt: skip
                pair.fail(error)
                if action in FAILED:
                    pair.post(FAILED[action])
                return

    async def _start_again(self, last: Pair) -> None:
        """Start a rebooted guest as a new pair."""
        await asyncio.sleep(max(0.0, SHORTEST_LIFE - (time.monotonic() - last.begun)))
        try:
            self.start(last.order)
        except Refused as error:  # somebody else was faster, or the builder ends
            log.warning("pair.not-restarted", guest=last.guest_name, **error.as_record())

    async def _adopt(self, entry: PairEntry) -> bool:
        """Take one pair up again; False when it does not run."""
        vtpm, hypervisor = find(entry.vtpm), find(entry.hypervisor)
        if entry.state != State.RUNNING or vtpm is None or hypervisor is None:
            return False
        pair = found_pair(entry)
        pair.holds.vtpm, pair.holds.hypervisor = vtpm, hypervisor
        directory = self._actions.directories.pair(entry.pair_id)
        try:
            pair.holds.guest = await self._actions.hypervisor.adopt(directory, hypervisor)
            await pair.holds.guest.resume()  # the builder may have died just before it did
        except HostError as error:
            log.warning("pair.not-adopted", guest=entry.guest, **error.as_record())
            return False
        pair.note_running()
        self._pairs[entry.guest] = pair
        self._tasks.create_task(self._actions.watch_vtpm(pair, vtpm))
        self._tasks.create_task(self._actions.watch_guest(pair))
        self._tasks.create_task(self._drive(pair))
        log.info("pair.adopted", guest=entry.guest, pair=entry.pair_id)
        return True

    async def _clear_away(self, pair_id: str, entry: PairEntry | None) -> None:
        """End what is left of a pair, and remove what it left."""
        if entry is None:
            self._actions.directories.remove_pair(pair_id)
            self._actions.journal.remove(pair_id)
            return
        pair = found_pair(entry)
        for name in (entry.vtpm, entry.hypervisor):
            process = find(name)
            if process is not None:
                process.kill()
                await process.wait()
        await self._actions.close_pair(pair)
        await self._actions.clear_away(pair)
        log.info("pair.cleared-away", guest=entry.guest, pair=pair_id)

    def _free_slot(self) -> int:
        """Give the lowest slot, so users, that no pair has."""
        taken = {pair.entry.slot for pair in self._pairs.values()}
        return next(slot for slot in range(MAX_SLOTS) if slot not in taken)
