"""A builder that is killed at one point of a start: `python dying_builder.py POINT --host DIR`.

It is the builder itself; only the named function is followed, or preceded, by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tandem.builder import __main__ as builder
from tandem.builder.actions import Actions
from tandem.builder.journal import Journal, PairEntry
from tandem.builder.manager_link import ManagerLink
from tandem.builder.zygote import Zygote
from tandem.channel import Channel
from tandem.hypervisor.qemu import QemuGuest
from tandem.wire.zygote_rpc import GuestStarted


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> None:
    setattr(owner, name, die)


def after(owner: Any, name: str) -> None:
    done: Callable[..., Awaitable[object]] = getattr(owner, name)

    async def then_die(*arguments: Any, **named: Any) -> None:
        await done(*arguments, **named)
        die()

    setattr(owner, name, then_die)


def before_the_guest_is_named() -> None:
    send = Channel.send

    def send_or_die(self: Channel, message: Any, descriptors: Sequence[int] = ()) -> None:
        if isinstance(message, GuestStarted):
            die()
        send(self, message, descriptors)

    Channel.send = send_or_die  # type: ignore[method-assign]


def in_the_journal(states: str) -> Callable[[], None]:
    """Die instead of storing that a pair has a vTPM, say: `states` names what is not stored."""

    def patch() -> None:
        store = Journal.store

        def store_or_die(self: Journal, entry: PairEntry) -> None:
            if {"vtpm": entry.vtpm_pid, "hypervisor": entry.hypervisor_pid}[states]:
                die()
            store(self, entry)

        Journal.store = store_or_die  # type: ignore[method-assign]

    return patch


POINTS: dict[str, Callable[[], None]] = {
    "before the pair is opened": lambda: before(ManagerLink, "open_pair"),
    "after the pair is opened": lambda: after(ManagerLink, "open_pair"),
    "before the vTPM is forked": lambda: before(Zygote, "spawn_vtpm"),
    "after the vTPM is forked": lambda: after(Zygote, "spawn_vtpm"),
    "before the vTPM is noted": in_the_journal("vtpm"),
    "before the guest is made": lambda: before(Actions, "create_guest_paused"),
    "after the hypervisor is forked": lambda: after(Zygote, "spawn_hypervisor"),
    "before the guest is noted": in_the_journal("hypervisor"),
    "before the guest is named to its vTPM": before_the_guest_is_named,
    "before the guest runs": lambda: before(QemuGuest, "resume"),
    "after the guest runs": lambda: after(QemuGuest, "resume"),
}

if __name__ == "__main__":
    POINTS[sys.argv.pop(1)]()
    sys.exit(builder.main())
