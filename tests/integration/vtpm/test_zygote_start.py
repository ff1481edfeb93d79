"""A zygote lives no longer than its builder, also before it serves."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

STARTER = (
    "import os, subprocess, sys; "
    "zygote = subprocess.Popen([sys.executable, '-m', 'tandem.vtpm', '--channel-fd', sys.argv[1]],"
    " pass_fds=[int(sys.argv[1])]); print(zygote.pid, flush=True); zygote.wait()"
)
SECONDS = 20.0


def test_a_zygote_that_comes_too_late_ends_at_once() -> None:
    # Given a channel whose other end is closed: the builder has died
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    # When a zygote is started with it
    with theirs:
        done = subprocess.run(
            [sys.executable, "-m", "tandem.vtpm", "--channel-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            timeout=SECONDS,
            check=False,
        )
    # Then it ends in order
    assert done.returncode == 0


def test_the_death_of_its_builder_ends_a_zygote_whose_channel_stays_open() -> None:
    # Given a zygote that has its first child, on a channel that others hold open too
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
        )
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        zygote, children = os.pidfd_open(pid), Path(f"/proc/{pid}/task/{pid}/children")
        deadline = time.monotonic() + SECONDS
        while not children.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # When who started it is killed
        starter.kill()
        starter.wait()
        # Then it is gone, although nobody closed the channel
        gone, _, _ = select.select([zygote], [], [], SECONDS)
        assert gone
    starter.stdout.close()
    os.close(zygote)
