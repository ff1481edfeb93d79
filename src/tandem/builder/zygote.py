"""The zygote, as the builder sees it: it forks vTPMs, and hypervisors beside them.

It is a child of the builder and is started anew when it dies; vTPMs that it forked live on.
"""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from tandem import channel as channels
from tandem.builder.exchange import SILENT, ask
from tandem.channel import Channel, Closed
from tandem.errors import HostError
from tandem.hypervisor.driver import Execution
from tandem.hypervisor.process import Process
from tandem.log import get_logger
from tandem.wire.zygote_rpc import (
    ZYGOTE_ANSWERS,
    ZYGOTE_REQUESTS,
    Spawned,
    SpawnHypervisor,
    SpawnVtpm,
)

COMMAND: Final = (sys.executable, "-m", "tandem.vtpm", "--channel-fd")
SECONDS: Final = 60.0  # a zygote that has just begun takes its time on a slow machine
PAUSE_SECONDS: Final = 0.2  # before it is started again
log = get_logger("builder")


class Zygote:
    """The zygote's process and the channel to it."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._channel: Channel | None = None
        self._started = asyncio.Event()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Keep a zygote running until cancelled."""
        while True:
            try:
                process = self._start()
            except OSError as error:  # too many processes, say: it may get better
                log.warning("zygote.not-started", problem=error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            try:
                await self._wait(process)
            finally:
                self._hang_up()  # when cancelled, it ends by this, and nobody waits for it
            process.wait()
            await asyncio.sleep(PAUSE_SECONDS)

    async def spawn_vtpm(self, message: SpawnVtpm, descriptors: Sequence[int]) -> Process:
        """Fork a vTPM."""
        return await self._spawn(message, descriptors)

    async def spawn_hypervisor(self, pair_id: bytes, uid: int, execution: Execution) -> Process:
        """Fork and execute a hypervisor in the PID namespace of the pair's vTPM."""
        message = SpawnHypervisor(
            pair_id=pair_id,
            argv=execution.argv,
            uid=uid,
            groups=execution.groups,
            numbers=tuple(execution.inherited),
        )
        first = (execution.executable, execution.output, execution.output)
        return await self._spawn(message, (*first, *execution.inherited.values()))

    async def _spawn(
        self, message: SpawnVtpm | SpawnHypervisor, descriptors: Sequence[int]
    ) -> Process:
        async with self._turn:
            channel = await self._reached()
            try:
                spawned, [pidfd] = await ask(
                    channel, message, Spawned, descriptors, expects=1, seconds=SECONDS
                )
            except Closed as error:
                raise _gone() from error
            except HostError as error:
                if error.code == SILENT:
                    self._hang_up()  # its answer must not be taken for the next one's
                raise
        return Process(spawned.pid, pidfd)

    async def _reached(self) -> Channel:
        """Give the channel; one that is being started again is waited for."""
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    await self._started.wait()
                    if self._channel is not None and not _is_closed(self._channel):
                        return self._channel
                    self._hang_up()  # it died, and `run` is about to notice
        except TimeoutError as error:
            raise _gone() from error

    def _start(self) -> subprocess.Popen[bytes]:
        ours, theirs = channels.pair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            process = subprocess.Popen(  # noqa: S603 (no shell, arguments of our own)
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is the builder's to handle
            )
        self._channel = Channel(ours, sends=ZYGOTE_REQUESTS, receives=ZYGOTE_ANSWERS)
        self._started.set()
        return process

    async def _wait(self, process: subprocess.Popen[bytes]) -> None:
        await Process(process.pid, os.pidfd_open(process.pid)).wait()

    def _hang_up(self) -> None:
        self._started.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _is_closed(channel: Channel) -> bool:
    poll = select.poll()
    poll.register(channel.fileno(), 0)  # tells of the other end's close alone
    return bool(poll.poll(0))


def _gone() -> HostError:
    return HostError(
        "TDM-ZYGOTE-GONE",
        "the process that starts vTPMs is being started again",
        hint="start the guest again",
    )
