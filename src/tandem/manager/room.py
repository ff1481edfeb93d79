"""What one kind of client may ask: the messages of its protocol, and who answers each.

A new message is a dataclass in `wire.manager_rpc`, a place in its protocol's `MessageSet`, and one
line `room.on(Message, handler)` in the module that answers it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tandem.errors import UntrustedInput
from tandem.wire.messages import Message, MessageSet

if TYPE_CHECKING:
    from tandem.manager.clients import Client

Asked = TypeVar("Asked")


class Room:
    """The messages of one protocol, each with its handler.

    A handler gives the answer, or None where the answer comes later (`Commits.answer_after`,
    `DeepQuotes.ask`) or was sent by the handler itself (`Clients.answer`).  Nothing is read from a
    client whose answer comes later: each has one request at a time under way.
    """

    def __init__(self, *, sends: MessageSet, receives: MessageSet) -> None:
        self.sends = sends
        self.receives = receives
        self._handlers: dict[type, Callable[[Client, Any], Message | None]] = {}

    def on(self, kind: type[Asked], handler: Callable[[Client, Asked], Message | None]) -> None:
        """Have messages of `kind` answered by `handler`."""
        if kind not in self.receives.kinds or kind in self._handlers:
            raise ValueError(f"{kind.__name__} is no message of {self.receives.name}, or has one")
        self._handlers[kind] = handler

    def handle(self, client: Client, message: Message) -> Message | None:
        """Give the answer to a message, or None where it comes later."""
        handler = self._handlers.get(type(message))
        if handler is None:
            raise unexpected(message)
        return handler(client, message)


def unexpected(message: Message) -> UntrustedInput:
    """Say that a message of the protocol has no place now; its connection is closed."""
    return UntrustedInput(
        "TDM-MANAGER-UNEXPECTED",
        f"{type(message).__name__} has no place at this point",
        hint="the sender is broken or hostile: its connection is closed",
        offset=0,
    )
