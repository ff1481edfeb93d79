"""Who a client is comes from the kernel: on a Unix socket, and at the other end of loopback TCP."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tandem.broker.identity import ANSWER, MESSAGE, TcpOwners, parse_owner, unix_uid

OTHER = 54321
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it acts as another user")


@pytest.fixture
def owners() -> Iterator[TcpOwners]:
    asked = TcpOwners()
    yield asked
    asked.close()


def connected_as(uid: int) -> tuple[socket.socket, socket.socket]:
    """Connect by TCP as a user; both ends."""
    listening = socket.create_server(("127.0.0.1", 0))
    os.seteuid(uid)
    try:
        client = socket.socket()
        client.connect(listening.getsockname())
    finally:
        os.seteuid(0)
    accepted, _ = listening.accept()
    listening.close()
    return client, accepted


@pytest.mark.parametrize("uid", [0, OTHER])
def test_the_owner_of_the_other_end_is_the_client(owners: TcpOwners, uid: int) -> None:
    # Given a loopback connection that a user made
    client, accepted = connected_as(uid)
    # When the kernel is asked
    found = owners.uid(accepted)
    # Then it is that user
    assert found == uid
    client.close()
    accepted.close()


def test_a_client_that_left_is_nobody(owners: TcpOwners) -> None:
    # Given a connection whose client left at once, so that its row has no owner and user 0
    client, accepted = connected_as(OTHER)
    client.close()
    # When the kernel is asked
    # Then nobody is there, root least of all
    assert owners.uid(accepted) is None
    accepted.close()


def test_only_an_established_socket_that_exists_has_an_owner() -> None:
    # Given answers for a socket in each state, and without an inode
    def answer(state: int, inode: int, kind: int = 20) -> bytes:
        body = ANSWER.pack(2, state, 0, 0, 0, 0, 0, OTHER, inode)
        return MESSAGE.pack(MESSAGE.size + len(body), kind, 0, 0, 0) + body

    # When they are read
    # Then one of them names its user
    assert parse_owner(answer(1, 7)) == OTHER
    assert parse_owner(answer(6, 0)) is None  # TIME_WAIT
    assert parse_owner(answer(1, 0)) is None
    assert parse_owner(answer(1, 7, kind=2)) is None  # NLMSG_ERROR
    assert parse_owner(struct.pack("=I", 4)) is None


def test_a_unix_client_is_who_connected() -> None:
    # Given a listening socket and a user
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("\0tandem-identity-test")
    listening.listen()
    client = socket.socket(socket.AF_UNIX)
    os.seteuid(OTHER)
    try:
        client.connect("\0tandem-identity-test")
    finally:
        os.seteuid(0)
    accepted, _ = listening.accept()
    # When the kernel is asked
    # Then it is that user, whatever the process is by now
    assert unix_uid(accepted) == OTHER
    for each in (client, accepted, listening):
        each.close()
