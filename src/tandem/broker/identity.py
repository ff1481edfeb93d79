"""Who a client is, as the kernel says: nothing that the client sends counts.

On a Unix socket: SO_PEERCRED, what the connecting process was at connect(2).  On loopback TCP: the
owner of the socket at the other end, asked of sock_diag(7) by both addresses and ports.  That is as
sure as SO_PEERCRED while that socket is there and established, which is required; a row without a
socket (TIME_WAIT) has user 0 and is refused.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
MESSAGE: Final = struct.Struct("=IHHII")  # struct nlmsghdr
SOCKET_ID: Final = struct.Struct(">HH16s16s")  # struct inet_diag_sockid up to its interface
REQUEST: Final = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to its socket id
ANSWER: Final = struct.Struct("=BBBB48xIIIII")  # struct inet_diag_msg
NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
NLM_F_REQUEST: Final = 1
ESTABLISHED: Final = 1  # net/tcp_states.h
NO_COOKIE: Final = b"\xff" * 8  # INET_DIAG_NOCOOKIE
LARGEST: Final = 8192


def unix_uid(sock: socket.socket) -> int:
    """Give the user of the process at the other end of a Unix socket."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, uid, _ = CREDENTIALS.unpack(credentials)
    return int(uid)


class TcpOwners:
    """Asks the kernel who owns the other end of a loopback connection."""

    def __init__(self) -> None:
        self._netlink = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
        )

    def close(self) -> None:
        """Close the way to the kernel."""
        self._netlink.close()

    def uid(self, sock: socket.socket) -> int | None:
        """Give the user who made the socket that `sock` is connected to; None where nobody is."""
        theirs, ours = sock.getpeername(), sock.getsockname()
        self._netlink.send(owner_request(theirs, ours))
        return parse_owner(self._netlink.recv(LARGEST))


def owner_request(local: tuple[str, int], remote: tuple[str, int]) -> bytes:
    """Ask for the one established IPv4 TCP socket that has these ends (linux/inet_diag.h)."""
    addresses = [socket.inet_aton(host).ljust(16, b"\0") for host, _ in (local, remote)]
    ends = SOCKET_ID.pack(local[1], remote[1], *addresses) + bytes(4) + NO_COOKIE
    body = REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << ESTABLISHED) + ends
    return MESSAGE.pack(MESSAGE.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0) + body


def parse_owner(answer: bytes) -> int | None:
    """Read the owner of an answer; None for an error, or a socket that nobody holds any more."""
    if len(answer) < MESSAGE.size + ANSWER.size:
        return None
    _, kind, *_ = MESSAGE.unpack_from(answer)
    _, state, _, _, _, _, _, uid, inode = ANSWER.unpack_from(answer, MESSAGE.size)
    found = kind == SOCK_DIAG_BY_FAMILY and state == ESTABLISHED and inode != 0
    return int(uid) if found else None
