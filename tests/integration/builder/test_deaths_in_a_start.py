"""The builder dies at each point of a start: a whole pair runs, or nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.builder.remains import holders
from tests.integration.builder import dying_builder
from tests.integration.builder.running_host import RunningHost, alive

ORPHAN_SECONDS = 1.0


def kill_builder(host: RunningHost) -> None:
    builder = host.services()["builder"]
    os.kill(builder, signal.SIGKILL)
    host.wait_until(lambda: not alive(builder))


def start_with(host: RunningHost, point: str) -> None:
    """Start a guest with a builder that dies at `point`."""
    kill_builder(host)
    reading, writing = os.pipe()
    command = [sys.executable, dying_builder.__file__, point, "--host", str(host.host)]
    builder = subprocess.Popen(
        [*command, "--ready-fd", str(writing)],
        env=host.environment,
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    assert os.read(reading, 1)
    os.close(reading)
    host.run("guest", "start", "web")
    assert builder.wait(20) == -signal.SIGKILL


def vtpms(host: RunningHost) -> list[int]:
    """Give the processes that have a vTPM's state open."""
    return [each.pid for each in holders(host.host / "vtpm")]


@pytest.mark.parametrize("point", dying_builder.POINTS)
def test_a_start_cut_short_leaves_no_orphan(host: RunningHost, point: str) -> None:
    # Given a start whose builder dies at this point
    start_with(host, point)
    # When nobody has taken its place, for a second
    whole = point in ("before the guest runs", "after the guest runs")
    if not whole:
        host.wait_until(lambda: vtpms(host) == [], ORPHAN_SECONDS)
    # Then the pair is whole for the next builder, or nothing was left; and the next start works
    host.tandem("host", "up")
    assert [pair["state"] for pair in host.pairs()] == (["running"] if whole else [])
    host.stop_all()
    assert host.leftovers() == []
    host.start()


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 300])
def test_a_pair_whose_journal_cannot_be_read_is_ended(host: RunningHost, damage: bytes) -> None:
    # Given a running pair, its builder dead, its entry damaged
    pair = host.start()
    kill_builder(host)
    [entry] = (host.host / "builder" / "pairs").glob("*.json")
    entry.write_bytes(damage)
    # When the next builder comes
    host.tandem("host", "up")
    # Then it found the processes all the same, and ended them
    host.wait_until(lambda: not alive(pair["hypervisor_pid"]) and not alive(pair["vtpm_pid"]), 1.0)
    assert host.pairs() == []
    assert host.leftovers() == []
    host.start()


def test_a_pair_whose_journal_is_gone_is_ended(host: RunningHost) -> None:
    # Given a running pair of which no entry tells
    pair = host.start()
    kill_builder(host)
    for entry in (host.host / "builder" / "pairs").iterdir():
        entry.unlink()
    # When the next builder comes
    host.tandem("host", "up")
    # Then nothing of it lives
    host.wait_until(lambda: not alive(pair["hypervisor_pid"]) and not alive(pair["vtpm_pid"]), 1.0)
    assert not Path(host.host / "run" / "pairs" / pair["pair_id"]).exists()
    host.start()


def test_a_stop_that_the_builder_did_not_finish_is_finished(host: RunningHost) -> None:
    # Given a guest that does not follow, asked to stop by a builder that dies
    pair = host.start()
    stopping = subprocess.Popen(
        host.command("guest", "stop", "web"),
        env=host.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    host.wait_until(lambda: [each["state"] for each in host.pairs()] == ["closing"])
    kill_builder(host)
    stopping.wait()
    # When the next builder comes
    host.tandem("host", "up")
    # Then it sees the stop through
    host.wait_until(lambda: not alive(pair["hypervisor_pid"]), 20)
    host.wait_until(lambda: host.pairs() == [])


def test_a_paused_guest_stays_paused(host: RunningHost) -> None:
    # Given a paused guest whose builder dies
    pair = host.start()
    host.tandem("guest", "pause", "web")
    kill_builder(host)
    # When the next builder comes
    host.tandem("host", "up")
    # Then it has the guest, paused still
    assert [(each["pair_id"], each["state"]) for each in host.pairs()] == [
        (pair["pair_id"], "paused")
    ]
