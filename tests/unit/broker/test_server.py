"""The broker's loop: whole commands in, answers out, and whoever misbehaves out."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.broker.dialects import Mssim, SwtpmControl
from tests.unit.broker.serving import ANSWER, CROWD, GET_RANDOM, Serving


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    running = Serving(tmp_path)
    yield running
    running.close()


def test_a_command_is_answered_however_it_arrives(serving: Serving) -> None:
    # Given a client that sends a command in two parts
    client = serving.client()
    client.sendall(GET_RANDOM[:7])
    serving.turns(2)
    client.sendall(GET_RANDOM[7:])

    # When the server takes its turns
    serving.turns(2)

    # Then there is one answer
    assert client.recv(4096) == ANSWER


def test_commands_sent_at_once_are_answered_one_after_the_other(serving: Serving) -> None:
    # Given a client that does not wait for answers
    client = serving.client()
    client.sendall(3 * GET_RANDOM)

    # When the server takes its turns
    serving.turns(6)

    # Then each is answered
    assert client.recv(4096) == 3 * ANSWER


def test_one_client_that_sends_without_end_is_dropped(serving: Serving) -> None:
    # Given a client with far more commands than one that waits for answers has
    client, other = serving.client(), serving.client()
    client.sendall(5000 * GET_RANDOM)
    other.sendall(GET_RANDOM)

    # When the server takes its turns
    serving.turns(10)

    # Then it is hung up on, and the other has its answer
    assert other.recv(4096) == ANSWER
    assert hung_up(client)


def test_what_is_no_command_is_answered_and_hung_up_on(serving: Serving) -> None:
    # Given a client that sends a size that no command has
    client = serving.client()
    client.sendall(b"\x80\x01" + bytes(8))

    # When the server takes its turns
    serving.turns(2)

    # Then it is told so in a TPM's words, hung up on, and named in the log
    assert client.recv(4096).hex() == "80010000000a000b0142"
    assert client.recv(4096) == b""
    assert json.loads(serving.lines.text)["event"] == "client.hostile"


def test_a_user_without_rights_is_hung_up_on(tmp_path: Path) -> None:
    # Given a door whose clients are a user without rights
    serving = Serving(tmp_path, uid=1000)

    # When one comes
    client = serving.client()

    # Then it is hung up on, and named in the log
    assert client.recv(4096) == b""
    assert json.loads(serving.lines.text)["uid"] == 1000
    serving.close()


def test_mssims_frame_is_answered_in_mssims_frame(tmp_path: Path) -> None:
    # Given a door in the simulator's protocol
    serving = Serving(tmp_path, Mssim())
    client = serving.client()

    # When a command comes, and the end of the session
    client.sendall(bytes.fromhex("0000000800") + len(GET_RANDOM).to_bytes(4) + GET_RANDOM)
    serving.turns(2)
    answer = client.recv(4096)
    client.sendall((20).to_bytes(4))
    serving.turns(2)

    # Then the answer has its size before and a result behind it, and the connection ends
    assert answer == len(ANSWER).to_bytes(4) + ANSWER + bytes(4)
    assert client.recv(4096) == b""
    serving.close()


def test_control_requests_are_answered_without_the_tpm(tmp_path: Path) -> None:
    # Given a door in swtpm's control protocol
    serving = Serving(tmp_path, SwtpmControl())
    client = serving.client()

    # When a locality is set
    client.sendall(bytes.fromhex("0000000500"))
    serving.turns(2)

    # Then it is confirmed
    assert client.recv(4096) == bytes(4)
    serving.close()


def test_one_user_takes_a_share_of_the_connections(serving: Serving) -> None:
    # Given a user that connects again and again
    clients = [serving.client() for _ in range(100)]

    # When each of them sends a command
    for client in clients:
        client.sendall(GET_RANDOM)
    serving.turns(200)

    # Then those beyond its share are hung up on
    answered = 0
    for client in clients:
        try:
            answered += client.recv(4096) == ANSWER
        except ConnectionError:
            continue
    assert answered == 96
    assert "client.too-many" in serving.lines.text


def test_other_users_together_keep_root_from_nothing(serving: Serving) -> None:
    # Given users that connect as often as each of them may
    for uid in CROWD:
        serving.uid = uid
        for _ in range(96):
            serving.client()

    # When root connects
    serving.uid = 0
    root = serving.client()
    root.sendall(GET_RANDOM)
    serving.turns(2)

    # Then it is answered
    assert root.recv(4096) == ANSWER


def test_who_left_a_shared_seat_has_nothing_done_there(tmp_path: Path) -> None:
    # Given a user's programs that share a seat, of whom the first reads its answer
    serving = Serving(tmp_path, own_seat=False)
    clients = [serving.client() for _ in range(20)]
    before = serving.executed
    for client in clients:
        client.sendall(GET_RANDOM)
    serving.turns(1)

    # When the others leave
    for client in clients[1:]:
        client.close()
    serving.turns(50)

    # Then what they asked for is not kept for its turn
    assert clients[0].recv(4096) == ANSWER
    assert serving.executed - before <= 3
    serving.close()


def test_the_same_complaint_is_logged_once_a_minute(serving: Serving) -> None:
    # Given many clients that are told off for the same
    for _ in range(20):
        client = serving.client()
        client.sendall(b"\x80\x01" + bytes(8))
        serving.turns(2)

    # When the log is read
    # Then there is one line
    assert serving.lines.text.count("client.hostile") == 1


def test_what_happened_is_counted(serving: Serving, tmp_path: Path) -> None:
    # Given an allowed command, a refused one, and one of TPM 1.2
    client = serving.client()
    clear = bytes.fromhex("80020000000e000001264000000c")
    for command in (GET_RANDOM, clear, bytes.fromhex("00c10000000c000000990001")):
        client.sendall(command)
        serving.turns(2)
        client.recv(4096)

    # When the figures are written
    serving.server._figures.write()

    # Then they say what, by command and by rule
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    values = {each["name"]: each["samples"] for each in metrics}
    assert values["tandem_broker_clients"][0]["value"] == 1
    commands = {each["labels"]["command"] for each in values["tandem_broker_commands_total"]}
    assert commands == {"GetRandom", "Clear"}
    [refusal] = values["tandem_broker_refusals_total"]
    assert (refusal["labels"], refusal["value"]) == ({"rule": "refuse"}, 1)


def hung_up(client: socket.socket) -> bool:
    """Read whatever is left, up to the end; raises TimeoutError where there is none."""
    try:
        while client.recv(4096):
            pass
    except ConnectionError:
        return True
    return True
