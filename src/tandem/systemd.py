"""What systemd gives a service, and is told by it: sockets, readiness, signs of life.

The protocols are sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): variables of the
environment, descriptors from 3 on, and datagrams.  Without them nothing is told and nothing given.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final, Self

from tandem.errors import HostError

FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
MOST_DESCRIPTORS: Final = 64
UNNAMED: Final = "unknown"  # what systemd calls a socket without FileDescriptorName=
VARIABLES: Final = (
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
)
MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the environment says; all of it is for this very process."""

    sockets: Mapping[str, int] = field(default_factory=dict)  # descriptor by name
    notify: str = ""  # where to tell; "@" first for an abstract name
    watchdog: float | None = None  # seconds without a sign of life until the service is killed


def parse(environment: Mapping[str, str], pid: int) -> Given:
    """Read what systemd set for process `pid`; what it set for another one is nothing to us.

    Errors: TDM-SYSTEMD-ENVIRONMENT for values that systemd does not write.
    """
    sockets = _sockets(environment) if environment.get("LISTEN_PID") == str(pid) else {}
    watchdog = None
    if environment.get("WATCHDOG_PID", str(pid)) == str(pid) and "WATCHDOG_USEC" in environment:
        watchdog = _number(environment, "WATCHDOG_USEC") / MICROSECONDS
    notify = environment.get("NOTIFY_SOCKET", "")
    if notify and (notify[0] not in "/@" or len(notify) < 2):
        raise _not_systemds("NOTIFY_SOCKET", notify)
    return Given(sockets=sockets, notify=notify, watchdog=watchdog or None)


def take(environment: MutableMapping[str, str], pid: int) -> Given:
    """Read what systemd set, and take it out of the environment: children are not meant."""
    given = parse(environment, pid)
    for name in VARIABLES:
        environment.pop(name, None)
    for descriptor in given.sockets.values():
        os.set_inheritable(descriptor, False)
    return given


def _sockets(environment: Mapping[str, str]) -> dict[str, int]:
    count = _number(environment, "LISTEN_FDS")
    text = environment.get("LISTEN_FDNAMES", "")
    names = text.split(":") if text else [UNNAMED] * count
    if count > MOST_DESCRIPTORS or len(names) != count or len(set(names)) != count:
        raise _not_systemds("LISTEN_FDNAMES", text)
    return {name: FIRST_DESCRIPTOR + at for at, name in enumerate(names)}


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _not_systemds(name, text)
    return int(text)


def _not_systemds(name: str, text: str) -> HostError:
    return HostError(
        "TDM-SYSTEMD-ENVIRONMENT",
        f"{name} is {text[:80]!a}, which systemd does not set for a service of Tandem's",
        hint="start it with `systemctl start`, with one name for each socket, or with that "
        "variable unset",
    )


class Supervision:
    """Tells systemd how the service is; a duty of its loop, for a loop that hangs tells nothing.

    `due` and `run` take the time of the monotonic clock.
    """

    def __init__(self, given: Given) -> None:
        self._interval = None if given.watchdog is None else given.watchdog / 2
        self._next = 0.0
        self._socket: socket.socket | None = None
        if given.notify:
            address = "\0" + given.notify[1:] if given.notify[0] == "@" else given.notify
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell("STOPPING=1")
        if self._socket is not None:
            self._socket.close()

    def announce(self) -> None:
        """Tell that requests are taken from now on."""
        self._tell("READY=1")

    def live(self) -> None:
        """Give a sign of life now, where one is due: for a wait that has an end of its own."""
        self.run(time.monotonic())

    def seconds_left(self) -> float | None:
        """Give the seconds until the next sign of life is due; None where nobody waits for one."""
        due = self.due(time.monotonic())
        return None if due is None else max(0.0, due - time.monotonic())

    def due(self, now: float) -> float | None:
        """Give when the next sign of life is due; None where nobody waits for one."""
        return None if self._interval is None or self._socket is None else self._next

    def run(self, now: float) -> None:
        """Give a sign of life, where one is due."""
        due = self.due(now)
        if due is not None and now >= due and self._interval is not None:
            self._tell("WATCHDOG=1")
            self._next = now + self._interval

    def _tell(self, word: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(word.encode("ascii"))
        except OSError:
            return  # systemd starts anew, or its queue is full: the next sign of life tells again
