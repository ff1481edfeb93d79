"""The host's init: starts the services, and starts again each that ended, as systemd would."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kills.rules import Violation
from kills.watch import Watch, Watched
from tandem.cli.services import MODULES, Service
from tandem.errors import TandemError
from tandem.readiness import wait_until_ready
from tandem.settings import HostPaths

LONGEST_PAUSE: Final = 0.2  # seconds before a restart; systemd's units have one of 1
FIRST: Final = "manager"  # what the others' units are ordered after
REQUIRE_FIRST: Final = ("broker",)  # and what does so at each restart
MOST_FAILURES: Final = 5  # in a row, unkilled; systemd's units give up then, too
READY_SECONDS: Final = 60.0
END_SECONDS: Final = 30.0


@dataclass(kw_only=True)
class Kept:
    """One service that is kept running."""

    service: Service
    process: Watched | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    killed: bool = False  # by this program, so its end says nothing


class Init:
    """The services of one host."""

    def __init__(self, paths: HostPaths, watch: Watch, report: Callable[[Violation], None]) -> None:
        self._watch = watch
        self._random = random.Random()  # noqa: S311 - when it is due again was never repeatable
        self._report = report
        self._ending = False
        self.kept = {name: Kept(service=Service(name=name, paths=paths)) for name in MODULES}
        self.ended_alone: Counter[str] = Counter()  # by service and status

    async def keep(self, name: str) -> None:
        """Run one service for as long as the host is up."""
        kept, first, failures = self.kept[name], self.kept[FIRST], 0
        while not self._ending:
            if kept is not first and (name in REQUIRE_FIRST or kept.process is None):
                await first.ready.wait()
            status = await self._live(kept)
            kept.ready.clear()
            excused = kept.killed or (kept is not first and not first.ready.is_set())
            failures = 0 if excused else failures + 1
            if not excused and not self._ending:
                self.ended_alone[f"{name} {status}"] += 1
                if failures == MOST_FAILURES:
                    what = f"{name} ended {failures} times by itself: {_last_words(kept.service)}"
                    self._report(Violation(rule="service", pid=0, what=what))
            kept.killed = False
            await asyncio.sleep(self._random.uniform(0.0, LONGEST_PAUSE))

    def forget(self, name: str) -> None:
        """Do not count a service as ready: it is being killed."""
        self.kept[name].killed = True
        self.kept[name].ready.clear()

    async def all_ready(self) -> None:
        """Wait until every service takes requests."""
        for kept in self.kept.values():
            await kept.ready.wait()

    async def end(self) -> None:
        """End all services in order, the last to start first."""
        self._ending = True
        for kept in reversed(self.kept.values()):
            if kept.process is not None and kept.process.died is None:
                kept.process.kill(signal.SIGTERM)
                async with asyncio.timeout(END_SECONDS):
                    await kept.process.gone.wait()

    async def _live(self, kept: Kept) -> int | None:
        """Start the service and wait for its end; give its exit status."""
        ready, told = os.pipe()
        try:
            process = self._watch.find(_spawn(kept.service, told))
            os.close(told)
            if process is None:
                return None
            kept.process = process
            if await asyncio.to_thread(_is_ready, ready) and not kept.killed:
                kept.ready.set()
        finally:
            os.close(ready)
        await process.gone.wait()
        return process.status


def _is_ready(ready: int) -> bool:
    """Wait for the service's word; what it says instead is in its log."""
    try:
        return wait_until_ready(ready, READY_SECONDS)
    except TandemError:
        return False


def _spawn(service: Service, told: int) -> int:
    """Start a service in a session of its own."""
    command = [sys.executable, "-m", MODULES[service.name], "--host", str(service.paths.root)]
    os.set_inheritable(told, True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        sys.executable,
        [*command, "--ready-fd", str(told)],
        {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(service.log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _last_words(service: Service) -> str:
    return service.log.read_text(errors="replace")[-300:]
