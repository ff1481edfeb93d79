"""The builder attends the Manager: what lives rejoins it, and its death is noticed at once.

The connection is held as long as the Manager lives; its end is the Manager's.  Before new launches
are opened, each pair that lives asks for a new key channel, so that its vTPM stays in one place.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tandem.builder.exchange import SILENT, ask, closed_by_peer
from tandem.builder.manager_link import SECONDS, ManagerLink
from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused, TandemError
from tandem.log import get_logger
from tandem.wire.manager_rpc import Attend, Attended, PairRejoins, RejoinPair
from tandem.wire.zygote_rpc import NewKeyChannel

PAUSE_SECONDS: Final = 0.1  # between two looks for a Manager that is away
JOINED: Final = "TDM-PAIR-JOINED"
log = get_logger("builder")


@dataclass(frozen=True, kw_only=True)
class Living:
    """A vTPM that lives, and the way to it; None where there is none (any more)."""

    pair_id: bytes
    vtpm: str
    status: Channel | None


class Attendance:
    """Attends one Manager after the other, until cancelled."""

    def __init__(self, manager: ManagerLink, living: Callable[[], Sequence[Living]]) -> None:
        self._manager = manager
        self._living = living

    async def run(self) -> None:
        """Attend the Manager whenever there is one."""
        while True:
            try:
                with self._manager.connected() as channel:
                    await self._attend(channel)
            except TandemError as error:
                if error.code != "TDM-MANAGER-ABSENT":
                    log.warning("manager.not-attended", **error.as_record())
            except Closed:
                pass
            finally:
                self._manager.attended.clear()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _attend(self, channel: Channel) -> None:
        for each in self._living():
            await self._rejoin(channel, each)
        await ask(channel, Attend(), Attended, expects=0, seconds=SECONDS)
        self._manager.attended.set()
        log.info("manager.attended")
        await closed_by_peer(channel.sock)
        log.warning("manager.gone")

    async def _rejoin(self, channel: Channel, each: Living) -> None:
        """Bring one vTPM a new key channel; a refusal is that pair's alone."""
        request = RejoinPair(pair_id=each.pair_id, vtpm=each.vtpm)
        try:
            answer, [key_channel] = await ask(
                channel, request, PairRejoins, expects=1, seconds=SECONDS
            )
        except (Refused, HostError) as error:
            if error.code == SILENT:
                raise  # its late answer, with this pair's key channel, is not to be the next one's
            if error.code != JOINED:
                log.warning("pair.not-rejoined", pair=each.pair_id.hex(), **error.as_record())
            return
        with socket.socket(fileno=key_channel):
            if each.status is not None:
                with suppress(Closed, BlockingIOError):
                    each.status.send(NewKeyChannel(nonce=answer.nonce), [key_channel])
                    log.info("pair.rejoins", pair=each.pair_id.hex())
