"""Builder, zygote, Manager, vTPM and QEMU together: pairs begin and end whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.builder.running_host import RunningHost, alive


def test_a_started_guest_is_a_pair_and_a_stopped_one_leaves_nothing(host: RunningHost) -> None:
    # Given a guest that was started
    pair = host.start()
    [listed] = host.pairs()
    # When it is stopped
    host.tandem("guest", "stop", "web", "--kill")
    # Then it was one pair of two processes, and nothing is left of it
    assert listed["pair_id"] == pair["pair_id"]
    assert listed["state"] == "running"
    assert host.pairs() == []
    assert not alive(pair["vtpm_pid"])
    assert not alive(pair["hypervisor_pid"])
    assert host.leftovers() == []
    assert host.ask("host", "status")["open_pairs"] == 0


def test_each_launch_is_a_new_pair_of_the_same_vtpm(host: RunningHost) -> None:
    # Given a guest that was started and stopped
    first = host.start()
    host.tandem("guest", "stop", "web", "--kill")
    # When it is started again
    second = host.start()
    # Then pair and number are new, the measurements are not
    assert first["pair_id"] != second["pair_id"]
    assert second["launch_number"] == first["launch_number"] + 1
    assert first["launch"]["registers"] == second["launch"]["registers"]


def test_a_start_leaves_no_connection_behind_in_the_builder(host: RunningHost) -> None:
    # Given a builder that started and stopped a guest before, so that its inputs are kept
    record = json.loads((host.host / "run" / "builder.pid").read_text())
    held = Path(f"/proc/{record['pid']}/fd")
    counts = []
    # When it does so again, twice
    for _ in range(3):
        host.start()
        host.tandem("guest", "stop", "web", "--kill")
        time.sleep(0.2)  # for it to see that the command's connection was closed
        counts.append(len(list(held.iterdir())))
    # Then it holds as much as before
    assert counts[1:] == counts[:1] * 2


def test_the_builders_own_time_is_short_after_the_first_launch(host: RunningHost) -> None:
    # Given an entry that was launched before
    host.start()
    host.tandem("guest", "stop", "web", "--kill")
    # When it is launched again
    times = host.start()["times"]
    # Then measuring takes next to nothing
    assert times["measured"] < 30_000


def test_a_busy_name_is_refused_and_its_guest_runs_on(host: RunningHost) -> None:
    # Given a running guest
    pair = host.start()
    # When the same name is started again
    refusal = host.refusal("guest", "start", "web")
    # Then it is refused, and the first one is untouched
    assert refusal["code"] == "TDM-GUEST-RUNNING"
    assert [each["pair_id"] for each in host.pairs()] == [pair["pair_id"]]


@pytest.mark.parametrize("name", ["vmlinuz", "initramfs.cpio"])
def test_an_input_changed_by_one_byte_starts_nothing(host: RunningHost, name: str) -> None:
    # Given a library whose file changed after it was signed
    path = host.library / name
    original = path.read_bytes()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    # When the guest is started
    refusal = host.refusal("guest", "start", "web")
    path.write_bytes(original)
    # Then it is refused by name, and nothing was begun
    assert refusal["code"] == "TDM-INPUT-DIFFERS"
    assert name in refusal["problem"]
    assert host.pairs() == []
    assert host.leftovers() == []


@pytest.mark.parametrize("half", ["hypervisor_pid", "vtpm_pid"])
def test_when_one_half_is_killed_the_other_is_gone_within_a_second(
    host: RunningHost, half: str
) -> None:
    # Given a pair
    pair = host.start()
    other = "vtpm_pid" if half == "hypervisor_pid" else "hypervisor_pid"
    # When one half is killed
    os.kill(pair[half], signal.SIGKILL)
    # Then the other follows, and the builder clears away what was theirs
    host.wait_until(lambda: not alive(pair[other]), 1.0)
    host.wait_until(lambda: host.pairs() == [])
    assert host.leftovers() == []


def test_a_start_that_nobody_waits_for_any_more_is_undone(host: RunningHost) -> None:
    # Given a start that has just begun
    for delay in (0.09, 0.11, 0.13, 0.15, 0.17):
        client = subprocess.Popen(
            host.command("guest", "start", "web"),
            env=host.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        # When whoever asked is interrupted
        client.send_signal(signal.SIGINT)
        client.wait()
        # Then either the whole pair runs, because it was done already, or nothing of it is left
        host.wait_until(lambda: {pair["state"] for pair in host.pairs()} <= {"running"})
        host.stop_all()
        assert host.leftovers() == []


def test_many_guests_start_at_once(host: RunningHost) -> None:
    # Given ten names for one entry
    names = [f"web-{number}" for number in range(10)]
    # When all are started at the same time
    with ThreadPoolExecutor(len(names)) as pool:
        pairs = list(pool.map(lambda name: host.start(name, "--entry", "web"), names))
    # Then each has a pair, processes and users of its own
    assert len({pair["pair_id"] for pair in pairs}) == len(names)
    users = {Path(f"/proc/{pair[half]}").stat().st_uid
             for pair in pairs for half in ("vtpm_pid", "hypervisor_pid")}  # fmt: skip
    assert len(users) == 2 * len(names)
    assert 0 not in users


def test_an_ephemeral_vtpm_leaves_no_state(host: RunningHost) -> None:
    # Given a guest whose vTPM is ephemeral
    first = host.start("brief")
    host.tandem("guest", "stop", "brief", "--kill")
    # When it was started and stopped
    # Then no state of it stays
    assert first["ephemeral"] is True
    assert not (host.host / "vtpm" / "brief").exists()


def test_another_library_needs_its_key_and_shows_in_the_measurement(host: RunningHost) -> None:
    # Given a library that an administrator signed with a key of his own
    usual = host.start()["launch"]
    host.tandem("guest", "stop", "web", "--kill")
    own, key = host.directory / "own", host.directory / "own.key"
    own.mkdir()
    source = (host.library / "library.toml").read_text()
    (own / "library.toml").write_text(source.replace('"vmlinuz"', f'"{host.library}/vmlinuz"')
        .replace('"initramfs.cpio"', f'"{host.library}/initramfs.cpio"'))  # fmt: skip
    host.tandem("library", "keygen", "-o", str(key))
    host.tandem("library", "sign", str(own / "library.toml"), "--key", str(key))
    # When a guest is started from it, without and with its key, and under a name of its own
    manifest = str(own / "library.dsse.json")
    keyed = ("--library", manifest, "--library-key", f"{key}.pub")
    refusals = [
        host.refusal("guest", "start", "web", "--library", manifest)["code"],
        host.refusal("guest", "start", "web", *keyed)["code"],
    ]
    pair = host.start("own", "--entry", "web", *keyed)
    # Then web's vTPM is not for it; as another guest its PCR 17 differs while PCR 18 does not
    assert refusals == ["TDM-ENVELOPE-NOT-SIGNED", "TDM-VTPM-OTHER-LIBRARY"]
    assert pair["launch"]["registers"]["17"] != usual["registers"]["17"]
    assert pair["launch"]["registers"]["18"] == usual["registers"]["18"]


def test_an_unknown_entry_guest_or_name_is_an_error_of_its_own(host: RunningHost) -> None:
    # Given requests that make no sense
    # When they are made
    codes = [
        host.refusal("guest", "start", "nosuch")["code"],
        host.refusal("guest", "stop", "nosuch")["code"],
        host.refusal("guest", "start", "bad\nname")["code"],
        host.refusal("guest", "attest", "web", "--nonce", "00", "-o", "x")["code"],
    ]
    # Then each says what is wrong with it
    assert codes == [
        "TDM-ENTRY-UNKNOWN",
        "TDM-GUEST-UNKNOWN",
        "TDM-NAME-NOT-A-LABEL",
        "TDM-ATTEST-BAD-REQUEST",
    ]
