"""Who may ask what."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tandem.errors import HostError, UsageError
from tandem.manager.rights import Peer, Right, Rights, needed, parse_rights, peer_of, read_rights
from tandem.settings import BROKER_UID
from tandem.wire.manager_rpc import Activate, AskStatus, OpenPair

USERS = {"prometheus": 990}
GROUPS = {"operators": 70}
TABLE = (
    b'[users]\nprometheus = ["observe"]\n1000 = ["builder"]\n[groups]\noperators = ["administer"]\n'
)


def parse(table: bytes) -> Rights:
    def number(names: dict[str, int], name: str) -> int:
        try:
            return int(name) if name.isdigit() else names[name]
        except KeyError:
            raise ValueError(f"there is no {name}") from None

    return parse_rights(table, lambda name: number(USERS, name), lambda name: number(GROUPS, name))


def peer(uid: int, *groups: int) -> Peer:
    return Peer(uid=uid, groups=frozenset(groups))


def test_root_may_do_everything_and_the_broker_its_own() -> None:
    # Given a host without a table
    rights = Rights()
    # When root, the broker and others connect
    # Then root has each right, the broker one, others none
    assert rights.of(peer(0)) == frozenset(Right)
    assert rights.of(peer(BROKER_UID)) == {Right.BROKER}
    assert rights.of(peer(1000, 0)) == frozenset()
    assert not rights.for_others


def test_users_have_their_rights_and_those_of_their_groups() -> None:
    # Given a table
    rights = parse(TABLE)
    # When those whom it names connect
    # Then they have what it says, and nobody else has anything
    assert rights.of(peer(990)) == {Right.OBSERVE}
    assert rights.of(peer(1000, 70)) == {Right.BUILDER, Right.ADMINISTER}
    assert rights.of(peer(1001, 71)) == frozenset()
    assert rights.for_others


def test_each_request_needs_a_right_and_unknown_ones_the_administrators() -> None:
    # Given kinds of requests, one that nobody thought of among them
    # When it is asked what they need
    # Then it is what their row says, or the administrator's
    assert needed(AskStatus) is Right.OBSERVE
    assert needed(OpenPair) is Right.BUILDER
    assert needed(Activate) is Right.ADMINISTER
    assert needed(dict) is Right.ADMINISTER


@pytest.mark.parametrize(
    "table",
    [
        b"[user]\na = []\n",
        b"users = 3\n",
        b'[users]\nnobody-there = ["observe"]\n',
        b'[users]\nprometheus = "observe"\n',
        b'[users]\nprometheus = ["root"]\n',
        b"[users]\nprometheus = [3]\n",
        b'[users]\n65534 = ["observe"]\n',
        b"not toml",
        b"\xff",
    ],
)
def test_a_table_that_says_something_else_is_refused(tmp_path: Path, table: bytes) -> None:
    # Given a table with a mistake
    path = tmp_path / "manager-clients.toml"
    path.write_bytes(table)
    path.chmod(0o644)
    # When it is read
    # Then nobody gets rights by it
    with pytest.raises(ValueError, match=r".+"):
        parse(table)
    with pytest.raises(UsageError) as raised:
        read_rights(path)
    assert raised.value.code == "TDM-CLIENTS-TABLE"


@pytest.mark.skipif(os.geteuid() != 0, reason="the table is root's")
def test_a_table_that_others_can_write_gives_no_rights(tmp_path: Path) -> None:
    # Given a table that a group may write
    path = tmp_path / "manager-clients.toml"
    path.write_bytes(b'[users]\n1000 = ["observe"]\n')
    path.chmod(0o664)
    # When it is read
    with pytest.raises(HostError) as raised:
        read_rights(path)
    # Then it is refused; root's own alone is taken
    assert raised.value.code == "TDM-CLIENTS-TABLE-WRITABLE"
    path.chmod(0o644)
    assert read_rights(path).users == {1000: {Right.OBSERVE}}


def test_the_kernel_says_who_is_connected(tmp_path: Path) -> None:
    # Given a connection of this very process
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(tmp_path / "socket"))
            accepted, _ = listening.accept()
            # When it is asked who that is
            with accepted:
                found = peer_of(accepted)
    # Then it is this process's user, with its groups
    assert found == Peer(uid=os.getuid(), groups=frozenset({os.getgid(), *os.getgroups()}))
