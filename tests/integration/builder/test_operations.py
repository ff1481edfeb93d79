"""A guest that is paused, resumed, restarted or killed keeps its vTPM, and gets no other."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.builder.running_host import RunningHost, alive

STILL = 0.3  # seconds, in which a guest that boots under TCG uses 30 ticks of its processor's
FEW = 5  # ticks that QEMU itself may use on a busy machine


def processor_time(pid: int) -> int:
    """Give the time that a process ran, in clock ticks (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def stands_still(pair: dict[str, Any]) -> bool:
    before = processor_time(pair["hypervisor_pid"])
    time.sleep(STILL)
    return processor_time(pair["hypervisor_pid"]) - before <= FEW


def states(host: RunningHost) -> list[str]:
    return [pair["state"] for pair in host.pairs()]


def test_a_paused_guest_stands_still_and_its_vtpm_waits_for_it(host: RunningHost) -> None:
    # Given a guest that runs
    pair = host.start()
    ran = not stands_still(pair)
    # When it is paused, twice
    paused = [host.ask("guest", "pause", "web") for _ in range(2)]
    still = stands_still(pair)
    listed = host.pairs()
    # Then its processors stop, the pair is the same one, and it goes on when it may
    assert (ran, still) == (True, True)
    assert [each["state"] for each in paused] == ["paused", "paused"]
    assert [each["pair_id"] for each in listed] == [pair["pair_id"]]
    assert alive(pair["vtpm_pid"])
    assert host.ask("guest", "resume", "web")["state"] == "running"
    assert not stands_still(pair)


def test_a_paused_guests_vtpm_serves_nobody_else(host: RunningHost) -> None:
    # Given a paused guest
    host.start()
    host.tandem("guest", "pause", "web")
    # When its name, and so its vTPM, is wanted for another start
    refusal = host.refusal("guest", "start", "web", "--entry", "brief")
    # Then it is refused, and the paused pair is untouched
    assert refusal["code"] == "TDM-GUEST-RUNNING"
    assert states(host) == ["paused"]


def test_a_pause_survives_the_builder(host: RunningHost) -> None:
    # Given a paused guest whose builder is killed
    pair = host.start()
    host.tandem("guest", "pause", "web")
    builder = host.services()["builder"]
    os.kill(builder, signal.SIGKILL)
    host.wait_until(lambda: not alive(builder))
    # When another builder is started
    host.tandem("host", "up")
    # Then the guest is paused still, in its own pair, and goes on when it may
    [listed] = host.pairs()
    assert (listed["state"], listed["pair_id"]) == ("paused", pair["pair_id"])
    assert stands_still(pair)
    host.tandem("guest", "resume", "web")
    assert states(host) == ["running"]
    assert not stands_still(pair)


@pytest.mark.parametrize("half", ["vtpm_pid", "hypervisor_pid"])
def test_a_paused_pair_ends_whole_whichever_half_dies(host: RunningHost, half: str) -> None:
    # Given a paused guest
    pair = host.start()
    host.tandem("guest", "pause", "web")
    # When one half is killed
    os.kill(pair[half], signal.SIGKILL)
    # Then the other is gone within a second, and nothing is left
    host.wait_until(
        lambda: not (alive(pair["vtpm_pid"]) or alive(pair["hypervisor_pid"])), seconds=1.0
    )
    host.wait_until(lambda: host.pairs() == [])
    assert host.leftovers() == []
    [ending] = [each for each in host.ask("guest", "list", "--ended") if each["guest"] == "web"]
    assert ending["reason"] == {"vtpm_pid": "vtpm_ended", "hypervisor_pid": "crashed"}[half]


def test_a_paused_guest_that_is_stopped_gets_its_time_running(host: RunningHost) -> None:
    # Given a paused guest whose system does not listen yet
    pair = host.start()
    host.tandem("guest", "pause", "web")
    # When it is stopped, with a second's patience
    begun = time.monotonic()
    host.tandem("guest", "stop", "web", "--timeout", "1")
    # Then it ran for that second and was powered off
    assert time.monotonic() - begun >= 1.0
    assert not alive(pair["hypervisor_pid"])
    log = (host.host / "run" / "builder.log").read_text().rpartition('"pause_asked"')[2]
    assert '"guest_unruly"' in log
    assert host.leftovers() == []


@pytest.mark.parametrize("paused", [False, True])
def test_a_restart_is_a_new_pair_of_the_same_vtpm(host: RunningHost, paused: bool) -> None:
    # Given a guest, paused or not, whose system does not listen yet
    before = host.start()
    if paused:
        host.tandem("guest", "pause", "web")
    # When it is restarted
    [after] = host.ask("guest", "restart", "web", "--timeout", "0")
    # Then another pair runs, of the vTPM's next launch, and the first one is gone
    assert after["pair_id"] != before["pair_id"]
    assert after["launch_number"] == before["launch_number"] + 1
    assert after["state"] == "running"
    assert not alive(before["vtpm_pid"])
    assert not alive(before["hypervisor_pid"])


def test_a_restart_that_somebody_cuts_short_says_so(host: RunningHost) -> None:
    # Given a restart that waits for a guest's system
    host.start()
    with ThreadPoolExecutor() as pool:
        restart = pool.submit(host.refusal, "guest", "restart", "web", "--timeout", "60")
        host.wait_until(lambda: states(host) == ["restarting"])
        # When somebody kills the guest
        host.tandem("guest", "kill", "web")
        # Then it is not started again, and whoever wanted that is told
        assert restart.result()["code"] == "TDM-GUEST-NOT-RESTARTED"
    assert host.pairs() == []


def test_what_no_longer_can_be_done_is_refused(host: RunningHost) -> None:
    # Given a guest that is being stopped
    host.start()
    with ThreadPoolExecutor() as pool:
        stop = pool.submit(host.tandem, "guest", "stop", "web", "--timeout", "60")
        host.wait_until(lambda: states(host) == ["closing"])
        # When it is to be paused, resumed or restarted
        refusals = [
            host.refusal("guest", verb, "web")["code"] for verb in ("pause", "resume", "restart")
        ]
        host.tandem("guest", "kill", "web")
        stop.result()
    # Then each is refused by name
    assert refusals == ["TDM-GUEST-NOT-RUNNING"] * 3


def test_why_a_guest_is_gone_is_kept(host: RunningHost) -> None:
    # Given a guest that was killed
    pair = host.start()
    host.tandem("guest", "kill", "web")
    # When somebody asks for it
    refusal = host.refusal("guest", "show", "web")
    endings = host.ask("guest", "list", "--ended")
    table = host.tandem("guest", "list", "--ended")
    # Then both say why it is gone, and the log does
    assert "it was powered off" in refusal["problem"]
    [ending] = [each for each in endings if each["guest"] == "web"]
    assert (ending["reason"], ending["pair_id"]) == ("killed", pair["pair_id"])
    assert "it was powered off" in table
    log = (host.host / "run" / "builder.log").read_text()
    assert '"reason": "killed"' in log.rpartition('"pair.ended"')[2]


def test_two_who_pause_and_resume_at_once_leave_it_as_the_last_one_wanted(
    host: RunningHost,
) -> None:
    # Given a guest
    pair = host.start()
    # When it is paused and resumed many times at once, and then paused
    with ThreadPoolExecutor(4) as pool:
        verbs = ["pause", "resume"] * 6
        list(pool.map(lambda verb: host.tandem("guest", verb, "web"), verbs))
    host.tandem("guest", "pause", "web")
    # Then it stands still
    assert states(host) == ["paused"]
    assert stands_still(pair)


def test_a_restart_whose_builder_dies_is_finished_by_the_next(host: RunningHost) -> None:
    # Given a restart that waits for a guest's system, whose builder is killed
    pair = host.start()
    with ThreadPoolExecutor() as pool:
        restart = pool.submit(host.run, "guest", "restart", "web", "--timeout", "60")
        host.wait_until(lambda: states(host) == ["restarting"])
        builder = host.services()["builder"]
        os.kill(builder, signal.SIGKILL)
        restart.result()
    # When another builder is started, and the guest's time is over
    host.tandem("host", "up")
    host.wait_until(
        lambda: (
            [each["launch_number"] for each in host.pairs()] == [pair["launch_number"] + 1]
            and states(host) == ["running"]
        ),
        seconds=30.0,
    )
    # Then the guest runs as another pair, and nothing of the first is left
    assert not alive(pair["vtpm_pid"])
    assert not alive(pair["hypervisor_pid"])


def test_a_host_that_goes_down_ends_paused_guests_in_order_too(host: RunningHost) -> None:
    # Given a guest that runs, and one that is paused
    pairs = [host.start(), host.start("brief")]
    host.tandem("guest", "pause", "brief")
    # When the host goes down
    host.tandem("host", "down")
    # Then both were asked to stop, and no process of theirs is left
    log = (host.host / "run" / "builder.log").read_text().rpartition('"pause_asked"')[2]
    assert log.count('"met": "stop_asked"') == 2
    halves = [pair[half] for pair in pairs for half in ("vtpm_pid", "hypervisor_pid")]
    assert [pid for pid in halves if alive(pid)] == []
    assert host.leftovers() == []
    host.tandem("host", "up")
