"""Start the TPM Manager: `python -m tandem.manager --host DIR [--ready-fd N]`."""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tandem import systemd
from tandem.errors import HostError, TandemError
from tandem.log import get_logger
from tandem.manager.host import open_host, reach_ptpm
from tandem.manager.identity import read_identity
from tandem.manager.pairs import Pairs
from tandem.manager.place import take_place
from tandem.manager.rights import Rights, read_rights
from tandem.manager.service import Service
from tandem.manager.warm_up import warm_up
from tandem.privileges import (
    drop_privileges,
    forbid_new_privileges,
    hide_memory,
    require_root_or,
)
from tandem.readiness import Readiness
from tandem.settings import UID_BASE, HostPaths
from tandem.system_journal import use_journal
from tandem.systemd import Supervision

BACKLOG: Final = 256
SOCKET_NAME: Final = "manager"  # FileDescriptorName= of the socket that systemd gives


def main() -> int:
    """Serve until SIGTERM or SIGINT; the only place where an error becomes an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tandem.manager", description=__doc__)
    parser.add_argument("--host", type=Path, required=True, help="the host's directory")
    parser.add_argument("--ready-fd", type=int, help="gets one byte once requests are taken")
    arguments = parser.parse_args()
    use_journal(os.environ, sys.stderr.fileno())
    try:
        with Readiness(arguments.ready_fd) as readiness:
            require_root_or(
                UID_BASE, "the Manager", "it opens the physical TPM and then gives root up"
            )
            given = systemd.take(os.environ, os.getpid())
            with Supervision(given) as supervision:
                serve(HostPaths(arguments.host), readiness, supervision, given.sockets)
    except TandemError as error:
        get_logger("manager").error("manager.ended", **error.as_record())
        return error.exit_status
    return 0


def serve(
    paths: HostPaths, readiness: Readiness, supervision: Supervision, sockets: Mapping[str, int]
) -> None:
    """Reach the pTPM, as root where that takes root, then serve as the Manager's own user."""
    identity = read_identity(paths.identity)
    rights = read_rights(paths.clients_table)
    lock = take_place(paths)
    _raise_limits()
    forbid_new_privileges()
    paths.run.mkdir(mode=0o711, exist_ok=True)
    opened = reach_ptpm(paths, identity.ptpm)
    try:
        with _listening(paths, sockets, rights) as listening, _told_to_end() as end:
            warm_up(_now())
            drop_privileges(UID_BASE)
            hide_memory()
            host = open_host(paths, identity, opened, _now)
            pairs = Pairs(host, _now)
            log = get_logger("manager")
            log.info("host.opened", ptpm=identity.ptpm, hardware_root=host.hardware_root)
            service = Service(host, pairs, listening, log, rights)
            opened.ptpm.tcti.waiting = supervision.live
            opened.ptpm.tcti.observe = service.metrics.observe_command
            service.duties += [supervision, opened.ptpm.watch]  # the last one may end the Manager
            readiness.announce()
            supervision.announce()
            service.serve(end)
            host.store.close()
            host.ptpm.close()
    finally:
        opened.close()
        os.close(lock)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _listening(paths: HostPaths, sockets: Mapping[str, int], rights: Rights) -> socket.socket:
    """Take the socket that systemd made, or make one below `run/`.

    The name goes through a descriptor, for 108 bytes are not many.  Only root reaches it, unless
    the host's table gives rights to others.
    """
    if SOCKET_NAME in sockets:
        return socket.socket(fileno=sockets[SOCKET_NAME])
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o111 if rights.for_others else 0o177)
    try:
        paths.manager_socket.unlink(missing_ok=True)
        directory = os.open(paths.run, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sock.bind(f"/proc/self/fd/{directory}/{paths.manager_socket.name}")
        finally:
            os.close(directory)
    except OSError as error:
        sock.close()
        raise HostError(
            "TDM-MANAGER-NOT-LISTENING",
            f"the Manager cannot listen at {paths.manager_socket}: {error.strerror}",
            hint="make room on the disk of the host's directory, and see that it can be written",
        ) from error
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    return sock


def _told_to_end() -> socket.socket:
    """Give a socket that becomes readable on SIGTERM or SIGINT."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return ours


def _raise_limits() -> None:
    """Have as many descriptors as the system grants: each running vTPM takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
