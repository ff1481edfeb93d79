"""The broker's listening sockets: one Unix socket, and on demand loopback TCP for older tools.

The Unix socket takes raw TPM commands, and the reference simulator's protocol: libtss2 (3.2 and
later) comes by it with `mssim:path=`, and looks for the platform at the same path and ".ctrl".
"""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tandem.broker.dialects import Dialect, Mssim, MssimPlatform, Raw, SwtpmControl
from tandem.broker.identity import TcpOwners, unix_uid
from tandem.broker.server import Door
from tandem.errors import HostError, UsageError
from tandem.settings import HostPaths
from tandem.wire.broker_rights import Listen

SOCKET_NAME: Final = "broker"  # FileDescriptorName= of the socket that systemd gives
PLATFORM_NAME: Final = "broker-platform"  # of the one that goes with it
LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 128
EVERYBODY: Final = 0o666  # the rights, by user, are what decides
GROUP: Final = 0o660


def doors(
    paths: HostPaths, listen: Listen, sockets: Mapping[str, int], opened: ExitStack
) -> list[Door]:
    """Open every door that the host's rights name; `opened` closes them.

    Where systemd made the Unix socket (`sockets`), its unit says who reaches it.
    """

    def unix(name: str, path: Path) -> socket.socket:
        if name in sockets:
            return opened.enter_context(socket.socket(fileno=sockets[name]))
        return opened.enter_context(_listen_unix(path, listen.group))

    found = [
        Door(
            listening=unix(SOCKET_NAME, paths.broker_socket),
            dialect=Raw(),
            framed=Mssim(),
            identify=unix_uid,
        )
    ]
    if SOCKET_NAME not in sockets or PLATFORM_NAME in sockets:
        platform = unix(PLATFORM_NAME, paths.broker_platform_socket)
        found.append(
            Door(listening=platform, dialect=MssimPlatform(), identify=unix_uid, commands=False)
        )
    if listen.mssim is None and listen.swtpm is None:
        return found
    owners = TcpOwners()
    opened.callback(owners.close)

    def tcp(port: int, dialect: Dialect, *, own_seat: bool = True, commands: bool = True) -> None:
        sock = opened.enter_context(_listen_tcp(port))
        found.append(
            Door(
                listening=sock,
                dialect=dialect,
                identify=owners.uid,
                own_seat=own_seat,
                commands=commands,
            )
        )

    if listen.mssim is not None:
        tcp(listen.mssim, Mssim())
        tcp(listen.mssim + 1, MssimPlatform(), commands=False)
    if listen.swtpm is not None:
        tcp(listen.swtpm, Raw(), own_seat=False)
        tcp(listen.swtpm + 1, SwtpmControl(), commands=False)
    return found


def _listen_unix(path: Path, group: str | None) -> socket.socket:
    """Listen below `run/`; the name goes through a descriptor, for 108 bytes are not many."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sock.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        if group is not None:
            os.chown(path, 0, _group_id(group))
        path.chmod(EVERYBODY if group is None else GROUP)
    except OSError as error:
        sock.close()
        raise _not_listening(str(path), error) from error
    sock.listen(BACKLOG)
    return sock


def _listen_tcp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
    except OSError as error:
        sock.close()
        raise _not_listening(f"{LOOPBACK} port {port}", error) from error
    sock.listen(BACKLOG)
    return sock


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(
            "TDM-BROKER-GROUP",
            f"broker.toml names the group {name!a}, which this host does not have",
            hint=f"make it with `groupadd --system {name}`, or name another",
        ) from None


def _not_listening(where: str, error: OSError) -> HostError:
    return HostError(
        "TDM-BROKER-NOT-LISTENING",
        f"the broker cannot listen at {where}: {error.strerror}",
        hint="free that port or name another in broker.toml; see that the host's directory can be "
        "written",
    )
