"""`tandem broker` and `tandem tpm`: the table, a file of rights, and the way for stock tools."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tandem.cli import tpm
from tandem.cli.main import main
from tandem.settings import DEFAULT_HOST, HOST_VARIABLE, HostPaths
from tandem.wire.tpm_table import TABLE

GET_RANDOM = bytes.fromhex("80010000000c0000017b0004")
RESPONSE = bytes.fromhex("8001000000100000000000040a0b0c0d")


def test_the_policy_names_each_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    # Given the table of commands
    # When it is printed, for a person and for a program
    assert main(["broker", "policy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["broker", "policy", "--json"]) == 0
    commands = json.loads(capsys.readouterr().out)["commands"]

    # Then both have every command once, with its rule and why
    assert [line.split()[1] for line in lines] == [row.name for row in TABLE.values()]
    assert {each["code"]: each["rule"] for each in commands} == {
        code: row.rule.value for code, row in TABLE.items()
    }
    assert all(each["why"] for each in commands)


def test_a_right_file_is_shown_as_what_it_grants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a file that grants a range
    path = tmp_path / "broker.toml"
    path.write_text('[listen]\nmssim = 2321\n[uid.1000]\nnv = ["0x01500000-0x0150001f"]\n')

    # When it is checked
    assert main(["broker", "check", str(path), "--json"]) == 0

    # Then it says who gets what, defaults included
    record = json.loads(capsys.readouterr().out)
    assert record["listen"] == {"mssim": 2321, "swtpm": None, "group": None}
    assert record["rights"]["uid 1000"]["nv"] == ["0x01500000-0x0150001f"]
    assert record["rights"]["uid 1000"]["hierarchies"] == ["owner", "null"]
    assert "everybody else" not in record["rights"]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('[default]\nnv = ["0x01800540"]', "[default] nv"),
        ("[uid.0]\nextend = [17]", "[uid.0] extend"),
        ("[uid.root]", "'root'"),
        ("[users]", "'users'"),
        ("[listen]\nmssim = 80", "[listen] mssim"),
        ("x = !", "line 1"),
    ],
)
def test_a_wrong_file_is_refused_by_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, place: str
) -> None:
    # Given a file that is wrong somewhere
    path = tmp_path / "broker.toml"
    path.write_text(content)

    # When it is checked
    status = main(["broker", "check", str(path), "--json"])

    # Then the place is named
    record = json.loads(capsys.readouterr().err)
    assert (status, record["code"]) == (2, "TDM-BROKER-RIGHTS")
    assert place in record["problem"]


def test_a_user_without_rights_is_said_to_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a host without a file, where root alone has rights
    # When another user's are asked for
    arguments = ["--host", str(tmp_path), "broker", "check", "--uid", "1000", "--json"]

    # Then there are none
    assert main(arguments) == 2
    assert json.loads(capsys.readouterr().err)["code"] == "TDM-BROKER-NO-RIGHTS"


def test_the_short_way_knows_the_same_places_as_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given what `tandem tpm` repeats because it imports nothing
    # When it is compared with the settings
    # Then it is the same
    monkeypatch.delenv(HOST_VARIABLE, raising=False)
    assert tpm.named_host(["tpm"]) == str(DEFAULT_HOST)
    assert tpm.HOST_VARIABLE == HOST_VARIABLE
    assert Path("/h", tpm.RUN, tpm.SOCKET) == HostPaths(Path("/h")).broker_socket
    assert tpm.named_host(["--host", "/h", "tpm"]) == "/h"
    assert tpm.named_host(["tpm", "--help"]) is None
    assert tpm.named_host(["host", "up"]) is None


def test_the_short_way_imports_little() -> None:
    # Given that stock tools run `tandem tpm` each time they start
    program = "import sys, tandem.__main__; print(*sorted(sys.modules))"
    # When it is loaded
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    # Then none of what takes long is
    loaded = set(done.stdout.split())
    assert not loaded & {"argparse", "pathlib", "typing", "dataclasses", "json", "tandem.errors"}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host's directory with a listener that answers one command."""
    (tmp_path / "run").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(HostPaths(tmp_path).broker_socket))
    listening.listen()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, listening:
            if connection.recv(4096) == GET_RANDOM:
                connection.sendall(RESPONSE)
                connection.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    return tmp_path


def run_tpm(host: Path, sent: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tandem", "--host", str(host), "tpm"]
    return subprocess.run(command, input=sent, capture_output=True, check=False, timeout=30)


def test_commands_pass_from_input_to_output(host: Path) -> None:
    # Given a broker
    # When a command is written, and nothing after it
    done = run_tpm(host, GET_RANDOM)
    # Then its response is printed, and that is all
    assert (done.returncode, done.stdout, done.stderr) == (0, RESPONSE, b"")


def test_a_broker_that_hangs_up_is_named(host: Path) -> None:
    # Given a broker that knows no such command
    # When one is written
    done = run_tpm(host, b"\x80\x01" + bytes(20))
    # Then the error says what happened and where to look
    assert done.returncode == 3
    assert b"TDM-BROKER-HUNG-UP" in done.stderr


def test_without_a_broker_the_error_says_how_to_start_it(tmp_path: Path) -> None:
    # Given a directory where nothing runs
    # When a command is written
    done = run_tpm(tmp_path, GET_RANDOM)
    # Then it says so
    assert done.returncode == 3
    assert b"TDM-BROKER-ABSENT" in done.stderr
    assert b"tandem host up" in done.stderr


def test_a_user_without_rights_is_told_that_the_broker_hung_up(tmp_path: Path) -> None:
    # Given a broker that closes the connection at once, with a command unread
    (tmp_path / "run").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(HostPaths(tmp_path).broker_socket))
    listening.listen()

    def refuse() -> None:
        connection, _ = listening.accept()
        with connection, listening:
            select.select([connection], [], [], 30)

    threading.Thread(target=refuse, daemon=True).start()

    # When a command is written
    done = run_tpm(tmp_path, GET_RANDOM)

    # Then the error says so, and no traceback does
    assert done.returncode == 3
    assert b"TDM-BROKER-HUNG-UP" in done.stderr
    assert b"Traceback" not in done.stderr
