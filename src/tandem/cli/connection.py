"""A connection of the command line to one of the host's services, open for a scope."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tandem.channel import Channel


class Connection:
    """What both services' clients are; leaving the scope closes it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __enter__(self) -> Self:
        return self

    def fileno(self) -> int:
        """Give the descriptor, for a selector."""
        return self._channel.fileno()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()
