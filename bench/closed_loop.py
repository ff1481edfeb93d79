"""Many clients in a closed loop: each asks again as soon as it is answered, for some seconds.

The clients are one thread here and many machines in earnest, so they cost as little as they can:
an answer is known by its first bytes, and only the last of each client is read as a whole.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tandem.channel import Channel, expect
from tandem.evidence import canonical
from tandem.wire.messages import Message, MessageSet

ANSWER_SIZE: Final = 8192


@dataclass
class Looping:
    """One client: what it asks next, and the answer that it must get."""

    channel: Channel
    requests: MessageSet
    answers: MessageSet
    ask: Callable[[], Message]
    answer: type

    def send(self) -> None:
        """Ask."""
        self.channel.sock.send(self.requests.encode(self.ask()))

    def receive(self) -> bytes:
        """Take an answer, of the right kind."""
        data = self.channel.sock.recv(ANSWER_SIZE)
        if not data.startswith(self._beginning):
            expect(self.answers.decode(data), self.answer)  # raises what it says instead
        return data

    def __post_init__(self) -> None:
        # a map of one entry, whose key is the message's name
        self._beginning = b"\xa1" + canonical.encode(self.answer.__name__)


def milliseconds_each(clients: Sequence[Looping], *, seconds: float, most: int = 1 << 30) -> float:
    """Let all of them ask for `seconds`, or `most` answers; gives the milliseconds for each.

    What is still under way then is waited for and not counted, so the clients can be used again.
    """
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.channel.sock, selectors.EVENT_READ, client)
        begun = time.perf_counter()
        for client in clients:
            client.send()
        answered, taken, under_way = 0, 0.0, len(clients)
        while under_way:
            for key, _ in selector.select():
                client = key.data
                data = client.receive()
                if not taken:
                    answered += 1
                    elapsed = time.perf_counter() - begun
                    taken = elapsed if elapsed >= seconds or answered >= most else 0.0
                if taken:
                    expect(client.answers.decode(data), client.answer)
                    under_way -= 1
                else:
                    client.send()
        return 1000 * taken / answered
