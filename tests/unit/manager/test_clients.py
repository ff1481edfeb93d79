"""Who is read from in a turn, and how many connections a user has."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.channel import Channel, expect
from tandem.errors import Refused
from tandem.log import Log
from tandem.manager import clients as clients_module
from tandem.manager.clients import ACCEPTED_MOST, USER_MOST, Clients
from tandem.manager.rights import Peer, Right, Rights
from tandem.manager.room import Room
from tandem.wire.manager_rpc import BUILDER_ANSWERS, BUILDER_REQUESTS, AskStatus, HostStatus
from tests.unit.manager.test_metrics import STATUS

MONITOR, OTHER, STRANGER = 61001, 61002, 61003
RIGHTS = Rights(users={MONITOR: frozenset({Right.OBSERVE}), OTHER: frozenset({Right.OBSERVE})})


class Door:
    """A listening socket to which the test connects as whomever it likes."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = str(directory / "socket")
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind(self._path)
        self.listening.listen(256)
        self.listening.setblocking(False)
        self._coming: list[int] = []
        monkeypatch.setattr(clients_module, "peer_of", self._peer)
        self.printed = io.StringIO()
        self.clients = Clients(Log("manager", self.printed), RIGHTS, lambda _: None)
        self.room = Room(sends=BUILDER_ANSWERS, receives=BUILDER_REQUESTS)
        self.room.on(AskStatus, lambda _client, _asked: STATUS)
        self._channels: list[Channel] = []

    def _peer(self, _: socket.socket) -> Peer:
        return Peer(uid=self._coming.pop(0), groups=frozenset())

    def come(self, uid: int) -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self._path)
        sock.settimeout(5)
        self._coming.append(uid)
        channel = Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)
        self._channels.append(channel)
        return channel

    def accept(self) -> None:
        self.clients.accept(self.listening, self.room)

    def turn(self) -> int:
        """Take a turn; give how many were served."""
        ready = self.clients.ready(1)
        for each in ready:
            each()
        return len(ready)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self.clients.close()
        self.listening.close()


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    made = Door(tmp_path, monkeypatch)
    yield made
    made.close()


def has_answer(channel: Channel) -> bool:
    channel.sock.setblocking(False)
    try:
        return bool(channel.sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_each_user_has_one_request_a_turn_and_root_all_of_its(door: Door) -> None:
    # Given two users with ten connections each, root with three, and a request on each of them
    users = [door.come(uid) for uid in (MONITOR, OTHER) for _ in range(10)]
    roots = [door.come(0) for _ in range(3)]
    door.accept()
    for channel in (*users, *roots):
        channel.send(AskStatus())
    # When a turn is taken
    served = door.turn()
    # Then root's requests are served, and one of each user's
    assert served == 5
    assert all(map(has_answer, roots))
    assert sum(map(has_answer, users)) == 2


def test_no_connection_of_a_user_waits_for_ever(door: Door) -> None:
    # Given a user who asks again over one connection as soon as it is answered
    busy, patient = door.come(MONITOR), door.come(MONITOR)
    door.accept()
    patient.send(AskStatus())
    # When turns are taken
    for _ in range(3):
        busy.send(AskStatus())
        door.turn()
    # Then the other one was served, too
    assert has_answer(patient)


def test_a_user_has_a_bounded_number_of_connections_and_gets_them_back(door: Door) -> None:
    # Given a user with more connections than he may have
    first, *others = [door.come(MONITOR) for _ in range(USER_MOST + 5)]
    door.accept()
    assert door.clients.held == USER_MOST
    # When one of them ends
    first.close()
    door.turn()
    # Then there is room for one more of his, and root's were never counted
    door.come(MONITOR), door.come(0)
    door.accept()
    assert door.clients.held == USER_MOST + 1
    assert len(others) > USER_MOST


def test_users_without_a_right_share_one_users_connections(door: Door) -> None:
    # Given many users whom the table does not name
    for uid in range(70000, 70000 + 2 * USER_MOST):
        door.come(uid)
    # When they connect
    door.accept()
    # Then together they have as many connections as one user
    assert door.clients.held == USER_MOST


def test_a_turn_takes_a_bounded_number_of_new_connections(door: Door) -> None:
    # Given more connections than a turn takes
    for _ in range(ACCEPTED_MOST + 10):
        door.come(0)
    # When a turn takes them
    door.accept()
    # Then the others wait for the next
    assert door.clients.held == ACCEPTED_MOST
    door.accept()
    assert door.clients.held == ACCEPTED_MOST + 10


def test_who_may_do_something_else_is_refused_and_keeps_the_connection(door: Door) -> None:
    # Given a user who may observe, and one who may nothing
    monitor, stranger = door.come(MONITOR), door.come(61003)
    door.accept()
    # When both ask for the status
    for channel in (monitor, stranger):
        channel.send(AskStatus())
    door.turn()
    # Then one is answered, the other refused
    assert isinstance(monitor.receive()[0], HostStatus)
    assert getattr(stranger.receive()[0], "code", "") == "TDM-MANAGER-NOT-ALLOWED"


def test_a_stranger_who_comes_again_and_again_does_not_fill_the_log(door: Door) -> None:
    # Given somebody without a right, who sends what is no message
    answers = []
    for _ in range(20):
        stranger = door.come(STRANGER)
        door.accept()
        stranger.sock.send(b"noise")
        door.turn()
        # When he is answered
        with pytest.raises(Refused) as raised:
            expect(stranger.receive()[0], HostStatus)
        answers.append(raised.value.code)
    # Then each answer says that he may not, nothing of his was parsed, and one line names him
    assert set(answers) == {"TDM-MANAGER-NOT-ALLOWED"}
    [line] = door.printed.getvalue().splitlines()
    assert (json.loads(line)["event"], json.loads(line)["uid"]) == ("client.refused", STRANGER)


@pytest.mark.parametrize("short", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_system_that_has_no_descriptor_left_ends_no_manager(
    door: Door, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    # Given somebody who connects while the system cannot give one more descriptor
    channel = door.come(0)
    channel.send(AskStatus())
    whole = door.listening

    class Short:
        def accept(self) -> None:
            raise OSError(short, os.strerror(short))

    monkeypatch.setattr(door, "listening", Short())
    door.accept()
    assert door.clients.held == 0
    # When there is one again
    monkeypatch.setattr(door, "listening", whole)
    door.accept()
    door.turn()
    # Then whoever waited is served
    assert channel.receive()[0] == STATUS
