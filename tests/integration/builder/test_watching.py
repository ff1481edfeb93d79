"""`guest list --watch`, `guest show` and `events` on a real host, across the builder's death."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.builder.running_host import RunningHost


@contextmanager
def watching(host: RunningHost, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command that goes on until it is interrupted."""
    with subprocess.Popen(
        host.command(*arguments),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        env=host.environment,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # SIGINT may be ignored, as in the background of a shell
            process.wait(10)


def read_until(process: subprocess.Popen[str], word: str) -> list[dict[str, Any]]:
    """Read events until one has `word` for what it met or is called."""
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        found.append(json.loads(line))
        if word in (found[-1]["event"], found[-1].get("met")):
            return found
    raise AssertionError(f"the stream ended before {word}: {found}")


def test_events_tell_the_life_of_a_pair_as_it_happens(host: RunningHost) -> None:
    # Given somebody who follows one guest's events
    with watching(host, "events", "web", "--follow", "--json") as follower:
        # When it is started and killed
        pair = host.start()
        host.tandem("guest", "stop", "web", "--kill")
        events = read_until(follower, "vtpm_gone")
    # Then the way through the table is there, in order, of this pair
    met = [each["met"] for each in events if each["event"] == "pair.stepped"]
    assert met[0] == "start_asked"
    assert met.index("vtpm_ready") < met.index("guest_created") < met.index("kill_asked")
    assert {each["pair"] for each in events} <= {"", pair["pair_id"]}
    numbers = [each["number"] for each in events]
    assert numbers == sorted(set(numbers))


def test_a_follower_outlives_the_builder(host: RunningHost) -> None:
    # Given a follower, and a guest that runs
    host.start()
    with watching(host, "events", "--follow", "--json") as follower:
        read_until(follower, "guest_created")
        # When the builder is killed and started again
        os.kill(host.services()["builder"], signal.SIGKILL)
        host.wait_until(lambda: host.run("guest", "list").returncode != 0)
        host.tandem("host", "up")
        # Then the adoption is told, too
        read_until(follower, "pair.adopted")


def test_the_time_line_outlives_the_builder(host: RunningHost) -> None:
    # Given a running guest
    host.start()
    [before] = host.ask("guest", "show", "web")
    # When the builder is killed and started again
    os.kill(host.services()["builder"], signal.SIGKILL)
    host.wait_until(lambda: host.run("guest", "list").returncode != 0)
    host.tandem("host", "up")
    # Then the pair's time line is whole
    [after] = host.ask("guest", "show", "web")
    states = [each["state"] for each in after["timeline"]]
    assert after["timeline"][: len(before["timeline"])] == before["timeline"]
    assert states[:2] == ["measuring", "measured"]


def test_a_piped_watch_prints_what_changes(host: RunningHost) -> None:
    # Given a watch into a pipe, of a host without guests
    with watching(host, "guest", "list", "--watch", "--json") as watcher:
        assert watcher.stdout is not None
        assert json.loads(watcher.stdout.readline()) == []
        # When a guest starts
        pair = host.start()
        # Then lists follow until one has it running
        for line in watcher.stdout:
            listed = json.loads(line)
            if listed and listed[0]["state"] == "running":
                break
    assert listed[0]["pair_id"] == pair["pair_id"]


def test_a_watch_on_a_terminal_is_drawn_in_place(host: RunningHost) -> None:
    # Given a running guest, and a terminal
    host.start()
    terminal, theirs = pty.openpty()
    # When the table is watched there
    with watching(host, "guest", "list", "--watch", stdout=theirs):
        os.close(theirs)
        drawn = b""
        while drawn.count(b"\x1b[H") < 2:
            drawn += os.read(terminal, 4096)
    os.close(terminal)
    # Then the second drawing went over the first
    assert drawn.count(b"GUEST") >= 2
    assert b"web" in drawn


def test_names_alone_are_for_scripts(host: RunningHost) -> None:
    # Given a running guest
    host.start()
    # When names are asked for
    # Then each is a line
    assert host.tandem("guest", "list", "--names") == "web\n"
