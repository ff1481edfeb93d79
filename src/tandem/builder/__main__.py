"""Start the domain builder: `python -m tandem.builder --host DIR [--ready-fd N]`."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import resource
import signal
import socket
import sys
from asyncio import TaskGroup
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tandem import systemd
from tandem.builder.actions import Actions, vtpm_uid
from tandem.builder.attendance import Attendance
from tandem.builder.directories import Directories
from tandem.builder.feed import Feed
from tandem.builder.inputs import InputStore
from tandem.builder.journal import Journal
from tandem.builder.library import KEYS, MANIFEST
from tandem.builder.manager_link import ManagerLink
from tandem.builder.measure import Builder
from tandem.builder.own_vtpm import OwnVtpm
from tandem.builder.service import Service
from tandem.builder.supervisor import MAX_SLOTS, Supervisor
from tandem.builder.zygote import Zygote
from tandem.errors import Refused, TandemError
from tandem.hypervisor.descriptors import Descriptors
from tandem.hypervisor.qemu import Qemu
from tandem.installation import installed_version, source_digest
from tandem.log import get_logger, listen
from tandem.privileges import require_root
from tandem.readiness import Readiness
from tandem.settings import HostPaths
from tandem.system_journal import use_journal
from tandem.systemd import Supervision

BACKLOG: Final = 64
NOT_INSTALLED: Final = "0"  # run from a source tree


def main() -> int:
    """Serve until told to end; the only place where an error becomes an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tandem.builder", description=__doc__)
    parser.add_argument("--host", type=Path, required=True, help="the host's directory")
    parser.add_argument("--ready-fd", type=int, help="gets one byte once requests are taken")
    arguments = parser.parse_args()
    use_journal(os.environ, sys.stderr.fileno())
    try:
        with Readiness(arguments.ready_fd) as readiness:
            require_root("the builder", "it gives vTPMs and hypervisors users of their own")
            raise_limits()
            with Supervision(systemd.take(os.environ, os.getpid())) as supervision:
                paths = HostPaths(arguments.host.absolute())
                asyncio.run(serve(paths, readiness, supervision))
    except TandemError as error:
        get_logger("builder").error("builder.ended", **error.as_record())
        return error.exit_status
    return 0


async def serve(paths: HostPaths, readiness: Readiness, supervision: Supervision) -> None:
    """Adopt what runs, take requests, and end in order on SIGTERM or SIGINT."""
    paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    paths.builder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Descriptors() as opened:
        take_place(opened.open(paths.builder, os.O_RDONLY | os.O_DIRECTORY), paths)
        run = opened.open(paths.run, os.O_RDONLY | os.O_DIRECTORY)
        paths.builder_socket.unlink(missing_ok=True)
        descriptor = opened.listen(run, paths.builder_socket.name, socket.SOCK_SEQPACKET, BACKLOG)
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            async with TaskGroup() as pairs:
                told = pairs.create_task(give_signs_of_life(supervision))
                await _serve_pairs(paths, listening, [readiness, supervision], pairs)
                told.cancel()
        paths.builder_socket.unlink(missing_ok=True)


async def _serve_pairs(
    paths: HostPaths,
    listening: socket.socket,
    waiting: Sequence[Readiness | Supervision],
    pairs: TaskGroup,
) -> None:
    zygote, feed = Zygote(), Feed()
    listen(feed.take)
    actions = make_actions(paths, zygote, pairs)
    supervisor, own_vtpm = Supervisor(actions, pairs), OwnVtpm(paths, actions, pairs)
    await supervisor.adopt()
    await own_vtpm.adopt()
    service = Service(supervisor, own_vtpm, paths.library / MANIFEST, feed)
    attendance = Attendance(actions.manager, lambda: [*supervisor.living(), *own_vtpm.living()])
    services = [
        pairs.create_task(zygote.run()),
        pairs.create_task(attendance.run()),
        pairs.create_task(own_vtpm.start_if_wanted()),
        pairs.create_task(service.accept(listening)),
    ]
    for each in waiting:
        each.announce()
    await told_to_end()
    await supervisor.end()
    await own_vtpm.end()
    for task in services:
        task.cancel()


def make_actions(paths: HostPaths, zygote: Zygote, pairs: TaskGroup) -> Actions:
    """Bring together the means that pairs are built with."""
    hypervisor = Qemu(probe_uid=vtpm_uid(MAX_SLOTS) + 1)
    return Actions(
        builder=Builder(version=installed_version(), digest=source_digest()),
        hypervisor=hypervisor,
        keys=paths.library / KEYS,
        inputs=InputStore(),
        directories=Directories(paths.run / "pairs", paths.vtpm),
        journal=Journal(paths.builder / "pairs"),
        manager=ManagerLink(paths.manager_socket),
        zygote=zygote,
        watch=pairs.create_task,
    )


def raise_limits() -> None:
    """Have as many descriptors as the system grants: each pair takes four, and more to start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def take_place(directory: int, paths: HostPaths) -> None:
    """Be the only builder of this host, for as long as this process lives."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Refused(
            "TDM-BUILDER-RUNNING",
            f"a builder of {paths.root} runs already",
            hint="see `tandem host status`; end it with `tandem host down`",
        ) from error


async def give_signs_of_life(supervision: Supervision) -> None:
    """Show systemd's watchdog that this loop goes round, where it wants to know."""
    while (seconds := supervision.seconds_left()) is not None:
        await asyncio.sleep(seconds)
        supervision.live()


async def told_to_end() -> None:
    """Wait for SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


if __name__ == "__main__":
    sys.exit(main())
