"""Start the broker: `python -m tandem.broker --host DIR [--ready-fd N]`."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tandem import systemd
from tandem.broker.broker import Broker
from tandem.broker.channel import ManagerChannel
from tandem.broker.complaints import Complaints
from tandem.broker.confinement import confine
from tandem.broker.doors import doors
from tandem.broker.figures import Figures
from tandem.broker.manager_link import open_channel
from tandem.broker.scheduler import Scheduler
from tandem.broker.server import Server
from tandem.broker_rights import read_rights
from tandem.errors import Refused, TandemError
from tandem.log import get_logger
from tandem.privileges import drop_privileges, forbid_new_privileges, hide_memory
from tandem.readiness import Readiness
from tandem.settings import UID_BASE, HostPaths
from tandem.system_journal import use_journal
from tandem.systemd import Supervision

BROKER_UID: Final = UID_BASE + 1
REACHABLE: Final = 0o711


def main() -> int:
    """Serve until SIGTERM or SIGINT; the only place where an error becomes an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tandem.broker", description=__doc__)
    parser.add_argument("--host", type=Path, required=True, help="the host's directory")
    parser.add_argument("--ready-fd", type=int, help="gets one byte once requests are taken")
    arguments = parser.parse_args()
    use_journal(os.environ, sys.stderr.fileno())
    try:
        with Readiness(arguments.ready_fd) as readiness:
            given = systemd.take(os.environ, os.getpid())
            with Supervision(given) as supervision:
                paths = HostPaths(arguments.host.absolute())
                serve(paths, readiness, supervision, given.sockets)
    except TandemError as error:
        get_logger("broker").error("broker.ended", **error.as_record())
        return error.exit_status
    return 0


def serve(
    paths: HostPaths, readiness: Readiness, supervision: Supervision, sockets: Mapping[str, int]
) -> None:
    """Open sockets and the channel to the Manager as root, then serve as the broker's own user."""
    with ExitStack() as opened:
        opened.callback(os.close, _take_place(paths))
        rights = read_rights(paths.broker_rights)
        end = opened.enter_context(_told_to_end())
        listening = doors(paths, rights.listen, sockets, opened)
        channel = opened.enter_context(open_channel(paths.manager_socket))
        _give_up_root()
        broker, scheduler = Broker(ManagerChannel(channel, supervision.live).execute), Scheduler()
        log = get_logger("broker")
        server = Server(
            broker,
            scheduler,
            rights,
            Complaints(log, time.monotonic),
            Figures(paths.broker_metrics, time.monotonic),
            supervision,
        )
        for door in listening:
            server.add(door)
        log.info("broker.opened", doors=[type(door.dialect).__name__ for door in listening])
        confine()
        readiness.announce()
        supervision.announce()
        server.serve(end, channel)


def _take_place(paths: HostPaths) -> int:
    """Be the only broker of this host, for as long as this process lives."""
    if os.geteuid() == 0:
        paths.broker_run.mkdir(mode=REACHABLE, parents=True, exist_ok=True)
        os.chown(paths.broker_run, BROKER_UID, BROKER_UID)
    descriptor = os.open(paths.broker_run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Refused(
            "TDM-BROKER-RUNNING",
            f"a broker of {paths.root} runs already",
            hint="see `tandem host status`; end it with `tandem host down`",
        ) from error
    return descriptor


def _give_up_root() -> None:
    if os.geteuid() == 0:
        drop_privileges(BROKER_UID)
    forbid_new_privileges()
    hide_memory()


def _told_to_end() -> socket.socket:
    """Give a socket that becomes readable on SIGTERM or SIGINT."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return ours


if __name__ == "__main__":
    sys.exit(main())
