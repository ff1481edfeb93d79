"""One host's campaign: bursts of kills, and after each burst everything must be well again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from kills.guests import ENDING, Guests, Wish
from kills.host import GUESTS, KEEPING, Host
from kills.init import Init
from kills.ledger import Account, Ledger
from kills.plan import Moment, Target, draw
from kills.processes import Role
from kills.report import Report
from kills.rules import LIMIT, Violation
from kills.watch import Watch, Watched
from tandem.builder.lifecycle import State
from tandem.errors import TandemError

SETTLE_SECONDS: Final = 60.0
LOOK_AGAIN: Final = 0.05
TOO_EARLY: Final = (
    "TDM-GUEST-RUNNING"  # the last pair is being cleared away, or a reboot came first
)
TOO_LATE: Final = ("TDM-GUEST-UNKNOWN", "TDM-GUEST-NOT-RUNNING")  # to resume one that just ended


class Say(Protocol):
    """Tells whoever runs this what happens."""

    def __call__(self, **members: object) -> None:
        """Tell it."""


class Campaign:
    """Everything of one host, from its making to its end."""

    def __init__(self, host: Host, say: Say) -> None:
        self.report = Report()
        self._accounts = {name: Account(keeps=kind == KEEPING) for name, kind in GUESTS.items()}
        self._ledger = Ledger(accounts=self._accounts)
        self._watch = Watch(self._ledger, self._broken, self._ended)
        self._init = Init(host.paths, self._watch, self._broken)
        self._guests = Guests(host.paths.root)
        self._host = host
        self._say = say
        self._burst = "start"
        self._may_end: set[str] = set()  # guests of which somebody wishes it

    def finished(self) -> Report:
        """Give what was met in all."""
        accounts = self._accounts.values()
        self.report.launches = sum(account.launches for account in accounts)
        self.report.acknowledged = sum(account.acknowledged for account in accounts)
        self.report.ended = {role.value: times for role, times in self._watch.gaps.items()}
        self.report.refused = self._ledger.refused
        self.report.failed = self._guests.failed
        self.report.ended_alone = self._init.ended_alone
        self.report.longest_stall = self._watch.longest_stall
        return self.report

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the host up and watched; at the end it is down, and nothing is left."""
        try:
            async with asyncio.TaskGroup() as tasks:  # whichever fails, all of it fails
                watching = tasks.create_task(self._watch.run())
                keeping = [tasks.create_task(self._init.keep(name)) for name in self._init.kept]
                await self._calibrate()
                yield
                await self._end()
                for task in (*keeping, watching):
                    task.cancel()
        finally:
            for role in Role:
                for each in self._watch.living(role):
                    each.kill()

    async def run_burst(self, name: str) -> None:
        """Kill, then see that everything comes back."""
        self._burst = name
        burst = draw(name, list(GUESTS))
        self._may_end = {guest for guest, _, wish in burst.wishes if wish in ENDING}
        wishes = [asyncio.create_task(self._wish(*wish)) for wish in burst.wishes]
        for moment in burst.moments:
            await asyncio.sleep(moment.pause)
            self._kill(moment)
        await asyncio.gather(*wishes)
        await self._settle()
        self._may_end.clear()
        self.report.bursts += 1

    def _kill(self, moment: Moment) -> None:
        """Kill what is there of the targets, all at once; a moment that meets nobody is none."""
        self._watch.look()
        found = [(target, self._find(target)) for target in moment.targets]
        met = [(target, each) for target, each in found if each is not None]
        killed = 0
        for target, each in met:
            if target.role in self._init.kept:
                self._init.forget(target.role)
            if each.kill():
                killed += 1
                self.report.kills[target.role] += 1
        self.report.moments += bool(killed)
        self._say(moments=self.report.moments)

    def _find(self, target: Target) -> Watched | None:
        if target.guest:
            return self._watch.of_guest(target.guest, target.role)
        return next(self._watch.living(target.role), None)

    async def _wish(self, guest: str, pause: float, wish: Wish) -> None:
        await asyncio.sleep(pause)
        try:
            await self._guests.grant(guest, wish)
        except TimeoutError:
            self._broken(Violation(rule="silent", pid=0, what=f"{wish} {guest} is never answered"))

    def _ended(self, guest: str, pid: int) -> None:
        """Take note of a guest's end: services that die must end none."""
        if guest not in self._may_end:
            what = f"guest {guest} {pid} ended, and neither it nor its vTPM was killed"
            self._broken(Violation(rule="ended", pid=pid, what=what))

    async def _calibrate(self) -> None:
        """Before the first kill: each guest runs, and found what its launch measured."""
        await self._init.all_ready()
        for guest in GUESTS:
            await self._guests.start(guest)
        await self._settle()
        for guest, account in self._accounts.items():
            measured = (await self._guests.show(guest))["launch"]["registers"]
            if {str(index): value for index, value in account.launch.items()} != measured:
                what = f"guest {guest} found {account.launch}, measured were {measured}"
                self._broken(Violation(rule="pcr", pid=0, what=what))

    async def _settle(self) -> None:
        """Wait until all runs, each guest having written since; then see that no file lies."""
        since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._init.all_ready()
                async with asyncio.TaskGroup() as guests:
                    for guest in GUESTS:
                        guests.create_task(self._bring_up(guest, since))
                await self._agree()
        except TimeoutError:
            self._broken(Violation(rule="not-settled", pid=0, what=await self._standing(since)))

    async def _bring_up(self, guest: str, since: float) -> None:
        """Start a guest unless it runs, and wait until its TPM acknowledged something."""
        account = self._accounts[guest]
        while account.heard < since:
            try:
                pair = (await self._guests.running()).get(guest)
                if pair is None:
                    await self._guests.start(guest)
                elif pair["state"] == State.PAUSED:
                    await self._guests.resume(guest)
            except TandemError as error:
                if error.code not in (TOO_EARLY, *TOO_LATE):
                    what = f"{guest}: {error.code}: {error.problem}"
                    self._broken(Violation(rule="start", pid=0, what=what))
                    await asyncio.sleep(LIMIT)
            await asyncio.sleep(LOOK_AGAIN)

    async def _agree(self) -> None:
        """See that builder, kernel and disk name the same pairs."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            known = await self._guests.running()
            living = {each.seen.pid for each in self._watch.living(Role.VTPM)}
            named = {pair["pair_id"] for pair in known.values()}
            same = {pair["vtpm_pid"] for pair in known.values()} == living
            if same and self._host.leftovers() == named:
                return

    async def _standing(self, since: float) -> str:
        """Say how far it came, for whoever looks into it."""
        accounts = self._accounts.items()
        mute = [guest for guest, account in accounts if account.heard < since]
        unready = [name for name, kept in self._init.kept.items() if not kept.ready.is_set()]
        living = sorted(each.seen.pid for each in self._watch.living(Role.VTPM))
        if unready:
            return f"not ready: {', '.join(unready)}"
        try:
            known = await self._guests.running()
        except TandemError as error:
            return f"the builder does not answer: {error.code}"
        pairs = [f"{name} {pair['state']} {pair['vtpm_pid']}" for name, pair in known.items()]
        files = self._host.leftovers() - {pair["pair_id"] for pair in known.values()}
        return f"mute: {mute}; builder: {pairs}; vTPMs: {living}; files of others: {sorted(files)}"

    async def _end(self) -> None:
        """Let the host go down in order; within the limit nothing is left of it."""
        self._burst = "end"
        self._may_end = set(GUESTS)
        await self._init.end()
        await asyncio.sleep(LIMIT)
        self._watch.look()
        left = [each for role in Role for each in self._watch.living(role)]
        for each in left:
            what = f"{each.seen.role} {each.seen.pid} outlives its host"
            self._broken(Violation(rule="left", pid=each.seen.pid, what=what))

    def _broken(self, found: Violation) -> None:
        record = {"rule": found.rule, "burst": self._burst, "what": found.what}
        self.report.violations.append(record)
        self._say(violation=record)
