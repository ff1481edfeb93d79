"""A process by pidfd: waited for, killed, and never taken for another."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace

from tandem.hypervisor.process import Process, ProcessName, find, start_time


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "60"])


def test_a_killed_process_is_seen_to_end() -> None:
    async def story() -> tuple[bool, bool]:
        # Given a process that runs
        child = sleeper()
        process = Process(child.pid, os.pidfd_open(child.pid))
        alive = process.alive
        # When it is killed
        process.kill()
        await asyncio.wait_for(process.wait(), 5)
        child.wait()
        process.kill()  # a second time changes nothing
        return alive, process.alive

    # Then it was alive, and is not any more
    assert asyncio.run(story()) == (True, False)


def test_a_process_is_found_again_by_its_name_and_no_other_is() -> None:
    async def story() -> tuple[bool, bool, bool]:
        # Given a process and its name
        child = sleeper()
        process = Process(child.pid, os.pidfd_open(child.pid))
        # When it is looked for by its name, by one of an earlier process, and after its end
        found = find(process.name)
        other = find(replace(process.name, start_time=process.name.start_time - 1))
        process.kill()
        child.wait()
        after = find(process.name)
        return found is not None, other is not None, after is not None

    # Then only the first finds it
    assert asyncio.run(story()) == (True, False, False)


def test_a_process_that_never_was_is_not_found() -> None:
    # Given the name that stands for none
    # When it is looked for
    # Then there is none
    assert find(ProcessName(pid=0, start_time=0)) is None


def test_a_process_with_an_odd_name_has_a_start_time() -> None:
    # Given this process under a name with blanks and brackets
    name = "a) b (c) 1"
    with open("/proc/self/comm", "r+", encoding="ascii") as comm:
        before = comm.read().strip()
        comm.write(name)
    # When its start time is read
    found = start_time(os.getpid())
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(before)
    # Then it is the one that it has under its own
    assert found == start_time(os.getpid())
