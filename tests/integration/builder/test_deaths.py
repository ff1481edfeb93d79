"""Builder, zygote or Manager die: guests run on, nothing is lost, the next start works."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tandem.hypervisor.descriptors import connect
from tests.integration.builder.running_host import RunningHost, alive


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def zygote(host: RunningHost) -> int:
    """Give the zygote's process id."""
    [pid] = [
        child
        for child in children(host.services()["builder"])
        if b"tandem.vtpm" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return pid


def test_guests_outlive_the_builder_and_the_next_one_adopts_them(host: RunningHost) -> None:
    # Given a pair whose builder is killed
    pair = host.start()
    builder = host.services()["builder"]
    os.kill(builder, signal.SIGKILL)
    host.wait_until(lambda: not alive(builder))
    # When another builder is started
    lived = alive(pair["vtpm_pid"]) and alive(pair["hypervisor_pid"])
    host.tandem("host", "up")
    adopted = host.ask("guest", "show", "web")[0]
    host.tandem("guest", "stop", "web", "--kill")
    # Then the pair lived all the time, is known in full, and can be stopped
    assert lived
    assert adopted["pair_id"] == pair["pair_id"]
    assert adopted["launch"] == pair["launch"]
    assert not alive(pair["hypervisor_pid"])
    assert host.leftovers() == []


def test_a_pair_that_ended_while_no_builder_ran_is_cleared_away(host: RunningHost) -> None:
    # Given a pair that ends after its builder did
    pair = host.start()
    builder = host.services()["builder"]
    os.kill(builder, signal.SIGKILL)
    os.kill(pair["hypervisor_pid"], signal.SIGKILL)
    host.wait_until(lambda: not alive(pair["vtpm_pid"]), 1.0)
    # When the builder is started again
    host.tandem("host", "up")
    # Then nothing is left, and the guest can be started
    assert host.pairs() == []
    assert host.leftovers() == []
    assert host.start()["launch_number"] == pair["launch_number"] + 1


@pytest.mark.parametrize("delay", [0.09, 0.1, 0.11, 0.12, 0.14, 0.17])
def test_a_builder_killed_during_a_start_leaves_a_whole_pair_or_none(
    host: RunningHost, delay: float
) -> None:
    # Given a start that is under way
    host.start()
    host.stop_all()
    builder = host.services()["builder"]
    client = subprocess.Popen(
        host.command("guest", "start", "web"),
        env=host.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay)
    # When the builder is killed and another one started
    os.kill(builder, signal.SIGKILL)
    client.wait()
    host.wait_until(lambda: not alive(builder))
    host.tandem("host", "up")
    # Then the pair runs whole, or nothing is left of it and the name is free
    pairs = host.pairs()
    assert [pair["state"] for pair in pairs] in ([], ["running"])
    if pairs:
        assert alive(pairs[0]["vtpm_pid"])
        host.stop_all()
    assert host.leftovers() == []
    host.start()


def test_a_dead_zygote_ends_no_guest_and_is_replaced(host: RunningHost) -> None:
    # Given a running guest, and a zygote that is killed
    pair = host.start()
    before = zygote(host)
    os.kill(before, signal.SIGKILL)
    host.wait_until(lambda: children(host.services()["builder"]) not in ([], [before]))
    # When another guest is started
    host.wait_until(lambda: host.run("guest", "start", "brief").returncode == 0)
    # Then both run
    assert alive(pair["hypervisor_pid"])
    assert {each["guest"] for each in host.pairs()} == {"web", "brief"}


def test_a_start_waits_for_a_zygote_that_is_being_started_again(host: RunningHost) -> None:
    # Given a zygote that was killed just now
    os.kill(zygote(host), signal.SIGKILL)
    # When a guest is started
    pair = host.start()
    # Then it runs, later by the zygote's own start
    assert pair["state"] == "running"


def test_without_a_manager_nothing_is_begun(host: RunningHost) -> None:
    # Given a host whose Manager is stopped
    manager = host.services()["manager"]
    os.kill(manager, signal.SIGTERM)
    host.wait_until(lambda: not alive(manager))
    # When a guest is started
    refusal = host.refusal("guest", "start", "web")
    # Then the error says so, nothing is left, and after its start all is well
    assert refusal["code"] == "TDM-MANAGER-ABSENT"
    assert host.pairs() == []
    assert host.leftovers() == []
    host.tandem("host", "up")
    host.start()


def test_a_second_builder_of_one_host_is_refused(host: RunningHost) -> None:
    # Given a host with a builder
    # When another is started
    done = subprocess.run(
        [sys.executable, "-m", "tandem.builder", "--host", str(host.host)],
        capture_output=True,
        text=True,
        env=host.environment,
        timeout=20,
        check=False,
    )
    # Then it refuses, and the first one answers still
    assert done.returncode == 5
    assert "TDM-BUILDER-RUNNING" in done.stderr
    assert host.pairs() == []


def test_somebody_who_is_not_root_is_not_heard(host: RunningHost) -> None:
    # Given a user without privilege who can even reach the socket
    path = host.host / "run" / "builder.sock"
    path.chmod(0o777)
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534);"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]);"
        "print(s.recv(10))"
    )
    # When he connects
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    path.chmod(0o700)
    # Then the connection is closed unread
    assert done.stdout.strip() == "b''", done.stderr


@pytest.mark.parametrize("junk", [b"\xff", b"\xa0", b"\xa1dNopea0", bytes(1000)])
def test_junk_on_the_socket_gets_an_error_and_hurts_nobody(host: RunningHost, junk: bytes) -> None:
    # Given a running guest
    pair = host.start()
    # When root sends something that is no request
    with connect(host.host / "run", "builder.sock", kind=socket.SOCK_SEQPACKET) as connection:
        connection.send(junk)
        answer = connection.recv(4096)
    # Then it is answered as an error, and the guest runs on
    assert b"Failed" in answer
    assert [each["pair_id"] for each in host.pairs()] == [pair["pair_id"]]


def test_a_host_that_goes_down_ends_every_guest(host: RunningHost) -> None:
    # Given two running guests
    pairs = [host.start(), host.start("brief")]
    # When the host goes down
    host.tandem("host", "down")
    # Then no process of theirs is left, and it can come up again
    halves = [pair[half] for pair in pairs for half in ("vtpm_pid", "hypervisor_pid")]
    assert [pid for pid in halves if alive(pid)] == []
    assert host.leftovers() == []
    host.tandem("host", "up")


def test_a_builder_without_descriptors_lives_on(host: RunningHost) -> None:
    # Given a running guest, and a builder that may open little more
    pair = host.start()
    builder = host.services()["builder"]
    before = resource.prlimit(builder, resource.RLIMIT_NOFILE)
    held = max(int(each) for each in os.listdir(f"/proc/{builder}/fd")) + 1
    # When a guest is to be started, and then more connect than it can take
    resource.prlimit(builder, resource.RLIMIT_NOFILE, (held + 4, before[1]))
    starting = host.run("guest", "start", "brief")
    resource.prlimit(builder, resource.RLIMIT_NOFILE, (held + 1, before[1]))
    connections = [
        connect(host.host / "run", "builder.sock", kind=socket.SOCK_SEQPACKET) for _ in range(4)
    ]
    time.sleep(0.5)
    for each in connections:
        each.close()
    resource.prlimit(builder, resource.RLIMIT_NOFILE, before)
    # Then the start fails, and the same builder goes on with its guest
    assert starting.returncode != 0
    assert host.services()["builder"] == builder
    assert alive(pair["hypervisor_pid"])
    host.start("brief")
    assert {each["guest"] for each in host.pairs()} == {"web", "brief"}
