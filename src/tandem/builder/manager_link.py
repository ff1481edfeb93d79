"""The Manager, as the builder sees it: pairs are opened and closed there (see `attendance`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tandem.builder.exchange import ask
from tandem.channel import Channel, Closed
from tandem.errors import HostError
from tandem.hypervisor.descriptors import connect
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    ClosePair,
    OpenPair,
    PairClosed,
    PairOpened,
)
from tandem.wire.messages import Message

Answer = TypeVar("Answer")
SECONDS: Final = 60.0  # a physical TPM may take seconds for one command
ATTEND_SECONDS: Final = 5.0  # in which a Manager just started is attended
CLOSE_SECONDS: Final = 5.0  # nothing depends on it: the key channel's end closes the pair too


class ManagerLink:
    """Asks over a connection of its own for each request: the Manager may start anew between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.attended = asyncio.Event()  # whether the Manager knows which pairs live

    async def open_pair(self, request: OpenPair) -> tuple[PairOpened, int]:
        """Open a launch; gives also the vTPM's end of its key channel, then the caller's."""
        try:
            async with asyncio.timeout(ATTEND_SECONDS):
                await self.attended.wait()
        except TimeoutError:
            pass  # it is absent, or says itself why nothing can be opened
        answer, [key_channel] = await self._ask(request, PairOpened, expects=1, seconds=SECONDS)
        return answer, key_channel

    async def close_pair(self, pair_id: bytes) -> None:
        """End a launch."""
        await self._ask(ClosePair(pair_id=pair_id), PairClosed, expects=0, seconds=CLOSE_SECONDS)

    async def _ask(
        self, message: Message, answer: type[Answer], *, expects: int, seconds: float
    ) -> tuple[Answer, Sequence[int]]:
        with self.connected() as channel:
            try:
                return await ask(channel, message, answer, expects=expects, seconds=seconds)
            except Closed as error:
                raise self._absent("it closed the connection") from error

    @contextmanager
    def connected(self) -> Iterator[Channel]:
        """Connect to the Manager; absent, it is an error."""
        try:
            sock = connect(self._path.parent, self._path.name, kind=socket.SOCK_SEQPACKET)
        except OSError as error:
            raise self._absent(error.strerror) from error
        with sock:
            yield Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)

    def _absent(self, reason: str | None) -> HostError:
        return HostError(
            "TDM-MANAGER-ABSENT",
            f"the TPM Manager cannot be asked at {self._path}: {reason}",
            hint="start the host's services with `tandem host up`",
        )
