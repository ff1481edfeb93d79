"""What systemd says in the environment, and what it is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tandem.errors import HostError
from tandem.systemd import Given, Supervision, parse, take

PID = 4321
LISTENING = {"LISTEN_PID": "4321", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "manager:broker"}


def test_sockets_have_the_names_of_their_units() -> None:
    # Given what systemd sets for a service with two sockets
    # When it is read
    given = parse(LISTENING, PID)
    # Then each descriptor has its name, from 3 on
    assert given.sockets == {"manager": 3, "broker": 4}


def test_what_is_another_processs_is_not_taken() -> None:
    # Given variables that a parent left in the environment
    environment = LISTENING | {"WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000000"}
    # When another process reads them
    given = parse(environment, PID + 1)
    # Then neither the sockets nor the watchdog are its own
    assert given.sockets == {}
    assert given.watchdog is None


def test_without_systemd_nothing_is_given() -> None:
    # Given an environment of a shell
    # When it is read
    # Then there is nothing
    assert parse({"PATH": "/bin"}, PID) == Given()


@pytest.mark.parametrize(
    "changes",
    [
        {"LISTEN_FDS": "3"},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": ""},
        {"LISTEN_FDNAMES": "manager:manager"},
        {"LISTEN_FDS": "100", "LISTEN_FDNAMES": ""},
        {"WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "run/notify"},
        {"NOTIFY_SOCKET": "@"},
    ],
)
def test_what_systemd_never_sets_is_refused_by_name(changes: dict[str, str]) -> None:
    # Given an environment that systemd did not make
    # When it is read
    with pytest.raises(HostError) as raised:
        parse(LISTENING | changes, PID)
    # Then the error names the variable
    assert raised.value.code == "TDM-SYSTEMD-ENVIRONMENT"
    assert next(name for name in changes if name in raised.value.problem or name == "LISTEN_FDS")


def test_children_are_not_told_what_was_for_their_parent() -> None:
    # Given an environment with everything
    environment = {"PATH": "/bin", "NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "10", "LISTEN_PID": "1"}
    # When the service takes what is its own
    take(environment, PID)
    # Then a child's environment has none of it
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_readiness_life_and_end(tmp_path: Path, abstract: bool) -> None:
    # Given a place where systemd listens
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = f"@{tmp_path.name}-{id(tmp_path)}" if abstract else str(tmp_path / "notify")
    listening.bind("\0" + name[1:] if abstract else name)
    listening.settimeout(5)
    # When a service starts, lives for a while and ends
    with Supervision(Given(notify=name, watchdog=10.0)) as supervision:
        supervision.announce()
        for now in (0.0, 1.0, 4.9, 5.0, 5.1):
            supervision.run(now)
        # Then it says so, with a sign of life at each half of the interval
        assert supervision.due(5.1) == 10.0
    words = [listening.recv(100).decode() for _ in range(4)]
    assert words == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
    listening.close()


def test_a_service_outlives_the_end_of_systemd(tmp_path: Path) -> None:
    # Given a systemd that has ended
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    supervision = Supervision(Given(notify=str(tmp_path / "notify"), watchdog=1.0))
    listening.close()
    # When a sign of life is due
    supervision.run(100.0)
    # Then the service goes on, and tells again later
    assert supervision.due(100.0) == 100.5


def test_nobody_who_does_not_ask_gets_signs_of_life() -> None:
    # Given a service that no watchdog watches
    # When it is asked when the next is due
    # Then it is never
    assert Supervision(Given()).due(0.0) is None
