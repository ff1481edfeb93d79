"""Requests to the Manager and to the zygote, without holding up the builder's loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeVar

from tandem.channel import Channel, expect
from tandem.errors import HostError, TandemError
from tandem.wire.messages import Failed, Message

Answer = TypeVar("Answer")
LOOK_AGAIN_SECONDS: Final = 0.1
SILENT: Final = "TDM-SERVICE-SILENT"


async def readable(descriptor: int) -> None:
    """Wait until something, or the end, can be read."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def closed_by_peer(sock: socket.socket) -> None:
    """Wait until the other side closes; what it may still send stays unread."""
    await readable(sock.fileno())
    with suppress(ConnectionResetError):
        while sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def receive(channel: Channel) -> tuple[Message, list[int]]:
    """Wait for one message and the descriptors that come with it."""
    await readable(channel.fileno())
    return channel.receive_any()


async def ask(
    channel: Channel,
    message: Message,
    answer: type[Answer],
    descriptors: Sequence[int] = (),
    *,
    expects: int,
    seconds: float,
) -> tuple[Answer, list[int]]:
    """Send a request and wait for its answer with `expects` descriptors; Closed passes through."""
    channel.send(message, descriptors)
    try:
        async with asyncio.timeout(seconds):
            reply, received = await receive(channel)
    except TimeoutError as error:
        raise HostError(
            SILENT,
            f"no answer to {type(message).__name__} in {seconds:.0f} s",
            hint="restart the host's services with `tandem host down` and `tandem host up`",
        ) from error
    if len(received) == expects:
        return expect_or_close(reply, answer, received), received
    close_all(received)
    if isinstance(reply, Failed):
        raise reply.as_error()
    raise HostError(
        "TDM-MESSAGE-OUT-OF-PLACE",
        f"{len(received)} descriptors came with {type(reply).__name__}, not {expects}",
        hint="restart the host's services: one of them is of another version",
    )


def expect_or_close(reply: Message, answer: type[Answer], received: Sequence[int]) -> Answer:
    """Give the reply as the kind asked for, or raise, and close what came with it."""
    try:
        return expect(reply, answer)
    except TandemError:
        close_all(received)
        raise


def close_all(descriptors: Sequence[int]) -> None:
    """Close every descriptor."""
    for descriptor in descriptors:
        os.close(descriptor)
