"""The process of the host's own vTPM: heard when it is ready, watched, ended in order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from tandem.builder.exchange import close_all, receive
from tandem.channel import Channel, Closed
from tandem.errors import HostError, UntrustedInput
from tandem.hypervisor.process import Process
from tandem.log import get_logger
from tandem.wire.zygote_rpc import EndVtpm, VtpmEnded, VtpmNoted, VtpmReady

END_SECONDS: Final = 10.0  # for an orderly end: Shutdown, last commit
log = get_logger("builder")


class OwnProcess:
    """A vTPM that serves this host's kernel; one that is ending may have no channel any more."""

    def __init__(self, process: Process, status: Channel | None) -> None:
        self._process = process
        self.status = status
        self.name = process.name

    async def wait(self) -> None:
        """Wait until the process is gone, and log what it said last."""
        await self._process.wait()
        if self.status is None:
            return
        self.status.sock.setblocking(False)  # all that it said is there; wait for nobody else
        with suppress(Closed, UntrustedInput, BlockingIOError), self.status.sock:
            while True:
                report, descriptors = self.status.receive_any()
                close_all(descriptors)
                if isinstance(report, VtpmEnded):
                    log.info("host-vtpm.said", code=report.code, problem=report.reason)

    def tell_noted(self) -> None:
        """Let the vTPM outlive the builder."""
        if self.status is not None:
            with suppress(Closed):
                self.status.send(VtpmNoted())

    async def hear_ready(self) -> None:
        """Wait until the vTPM is ready, or raise what it ends of."""
        while self.status is not None:
            report, descriptors = await receive(self.status)
            close_all(descriptors)
            match report:
                case VtpmReady():
                    return
                case VtpmEnded(code=code, reason=reason):
                    raise HostError(code, reason, hint="see run/builder.log of the host")
                case _:
                    pass  # a kind of report that only tells

    async def end(self) -> None:
        """Ask the vTPM to end in order; to one that is deaf, it is a power loss."""
        if self.status is None:
            return await self.kill()
        with suppress(Closed):
            self.status.send(EndVtpm())
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        await self._process.wait()
