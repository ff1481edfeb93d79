"""What a vTPM that its guest has taken over can say to the builder, and what comes of it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, cast

from tandem import channel as channels
from tandem.builder.actions import Actions
from tandem.builder.lifecycle import Event
from tandem.builder.pair import Order, Pair, new_pair
from tandem.channel import Channel
from tandem.hypervisor.process import Process
from tandem.wire.zygote_rpc import STATUS_REPORTS, STATUS_REQUESTS, VtpmReady

READY = VtpmReady(manufactured=False, microseconds=1)
NONE = cast(Any, None)
ACTIONS = Actions(
    builder=NONE,
    hypervisor=NONE,
    keys=NONE,
    inputs=NONE,
    directories=NONE,
    journal=NONE,
    manager=NONE,
    zygote=NONE,
    watch=NONE,
)


def events_of(says: list[tuple[bytes, int]], *, then_ends: bool) -> tuple[list[Event], int]:
    """Let a vTPM say each message with so many descriptors; give events and descriptors left."""

    async def story() -> tuple[list[Event], int]:
        child = subprocess.Popen(["/bin/sleep", "60"])
        ours, theirs = channels.pair()
        pair: Pair = new_pair(Order(guest="web", entry="web", manifest=Path("/l"), keys=()), slot=0)
        pair.holds.status = Channel(ours, sends=STATUS_REQUESTS, receives=STATUS_REPORTS)
        pair.holds.vtpm = vtpm = Process(child.pid, os.pidfd_open(child.pid))
        before = len(os.listdir("/proc/self/fd"))
        watching = asyncio.create_task(ACTIONS.watch_vtpm(pair, vtpm))
        for data, descriptors in says:
            socket_fds = [theirs.fileno()] * descriptors
            socket.send_fds(theirs, [data], socket_fds)
            await asyncio.sleep(0.05)
        left = len(os.listdir("/proc/self/fd")) - before
        if then_ends:
            theirs.close()
            vtpm.kill()
        async with asyncio.timeout(5):
            await watching
        child.wait()
        ours.close()
        theirs.close()
        return [pair.events.get_nowait() for _ in range(pair.events.qsize())], left

    return asyncio.run(story())


def test_a_vtpm_is_ready_once_however_often_it_says_so() -> None:
    # Given a vTPM that reports its readiness three times
    ready = (STATUS_REPORTS.encode(READY), 0)
    # When the builder hears it
    events, _ = events_of([ready] * 3, then_ends=True)
    # Then it is one event: a second one has no place in a running pair
    assert events == [Event.VTPM_READY, Event.VTPM_GONE]


def test_descriptors_that_a_vtpm_sends_are_not_kept() -> None:
    # Given a vTPM that sends descriptors with its reports
    report = (STATUS_REPORTS.encode(READY), 8)
    # When the builder hears it
    _, left = events_of([report] * 4, then_ends=True)
    # Then it holds none of them
    assert left <= 0


def test_a_vtpm_that_breaks_the_protocol_is_ended_and_nothing_else() -> None:
    # Given a vTPM that sends what is no message
    # When the builder hears it
    events, _ = events_of([(b"\xff no message", 0)], then_ends=False)
    # Then the vTPM is ended, and its pair with it, while the builder goes on
    assert events == [Event.VTPM_GONE]
