"""What people ask of a host's guests meanwhile: start, stop, kill, reboot, show."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, Final, TypeVar

from tandem.cli.builder_client import BuilderClient
from tandem.errors import TandemError
from tandem.wire.builder_rpc import (
    AttachConsole,
    PauseGuest,
    RestartGuest,
    ResumeGuest,
    StartGuest,
    StopGuest,
)

ANSWER_SECONDS: Final = 90.0  # a physical TPM may take its time for a start
STOP_SECONDS: Final = 2
RESET: Final = b"r"  # as the guest understands it
RESET_SECONDS: Final = 1.0
BLOCK: Final = 4096
Answer = TypeVar("Answer")


class Wish(StrEnum):
    """What is asked of one guest around a moment."""

    NOTHING = auto()
    START = auto()
    STOP = auto()  # by its power button
    KILL = auto()
    RESET = auto()  # from inside
    RESTART = auto()
    PAUSE = auto()  # until all is to be well again
    PAUSE_RESUME = auto()


ENDING: Final = (Wish.STOP, Wish.KILL, Wish.RESET, Wish.RESTART)  # a pair, if granted


class Guests:
    """The guests of one host, through the builder as people reach it."""

    def __init__(self, host: Path) -> None:
        self._host = host
        self._threads = ThreadPoolExecutor(32)
        self.failed: Counter[str] = Counter()  # requests that failed while services were killed

    async def grant(self, guest: str, wish: Wish) -> None:
        """Ask; failing is no wonder, for whoever is asked may be dead."""
        asked: dict[Wish, list[Callable[[str], Awaitable[None]]]] = {
            Wish.NOTHING: [],
            Wish.START: [self.start],
            Wish.STOP: [self.stop],
            Wish.KILL: [self.kill],
            Wish.RESET: [self.reset],
            Wish.RESTART: [self.restart],
            Wish.PAUSE: [self.pause],
            Wish.PAUSE_RESUME: [self.pause, self.resume],
        }
        try:
            for ask in asked[wish]:
                await ask(guest)
        except TandemError as error:
            self.failed[f"{wish} {error.code}"] += 1
        except OSError as error:  # the console's other end died
            self.failed[f"{wish} {type(error).__name__}"] += 1

    async def start(self, guest: str) -> None:
        """Start a guest, and wait until it runs."""
        request = StartGuest(name=guest, entry=guest, manifest="", keys=())
        await self._ask(lambda builder: builder.start(request, lambda _step, _after: None))

    async def stop(self, guest: str) -> None:
        """Stop a guest by its power button, and wait until nothing of its pair is left."""
        request = StopGuest(name=guest, kill=False, seconds=STOP_SECONDS)
        await self._ask(lambda builder: builder.stop(request))

    async def kill(self, guest: str) -> None:
        """Power a guest off."""
        request = StopGuest(name=guest, kill=True, seconds=0)
        await self._ask(lambda builder: builder.stop(request))

    async def reset(self, guest: str) -> None:
        """Have a guest reset its machine."""
        await self._in_thread(lambda: self._reset(guest))

    async def restart(self, guest: str) -> None:
        """Stop a guest by its power button, and start it again as a new pair."""
        request = RestartGuest(name=guest, seconds=STOP_SECONDS)
        await self._ask(lambda builder: builder.start(request, lambda _step, _after: None))

    async def pause(self, guest: str) -> None:
        """Stop a guest's processor."""
        await self._ask(lambda builder: builder.hold(PauseGuest(name=guest)))

    async def resume(self, guest: str) -> None:
        """Let a paused guest go on."""
        await self._ask(lambda builder: builder.hold(ResumeGuest(name=guest)))

    async def running(self) -> dict[str, dict[str, Any]]:
        """Give every pair that the builder knows, by guest."""
        pairs = await self._ask(lambda builder: builder.guests())
        return {pair["guest"]: pair for pair in pairs}

    async def show(self, guest: str) -> dict[str, Any]:
        """Give all about one guest's pair."""
        [pair] = await self._ask(lambda builder: builder.guests(guest))
        return pair

    def _reset(self, guest: str) -> None:
        with (
            BuilderClient(self._host) as builder,
            builder.attach(AttachConsole(name=guest)) as line,
        ):
            line.sendall(RESET)
            line.settimeout(RESET_SECONDS)
            with suppress(TimeoutError):  # hanging up at once could cost a letter of QEMU's log
                while line.recv(BLOCK):
                    pass

    async def _ask(self, ask: Callable[[BuilderClient], Answer]) -> Answer:
        def asked() -> Answer:
            with BuilderClient(self._host) as builder:
                return ask(builder)

        return await self._in_thread(asked)

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        """Do what blocks beside the loop; TimeoutError where nobody ever answers."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(ANSWER_SECONDS):
            return await loop.run_in_executor(self._threads, work)
