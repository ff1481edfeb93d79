"""A running guest whose Manager is killed: it sees a pause, and nothing it was told is lost."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time

from peers.console import PROMPT_MARK, Console
from tandem.cli.guest import connect_console
from tandem.evidence.bundle import parse_evidence
from tests.integration.builder.running_host import RunningHost, alive

BOOT_SECONDS = 60.0
INDEX = "0x1500010"
WRITE = f"printf %s WORD | tpm2_nvwrite -C o -i - {INDEX} && echo written"


def kill(host: RunningHost, *names: str) -> None:
    """Kill services as a crash does."""
    running = host.services()
    for name in names:
        os.kill(running[name], signal.SIGKILL)
    host.wait_until(lambda: not any(alive(running[name]) for name in names))


def attest(host: RunningHost) -> bytes:
    """Have the guest attested, and give the nonce of the evidence."""
    output = host.directory / f"{secrets.token_hex(4)}.json"
    nonce = secrets.token_bytes(32)
    host.tandem(
        *("guest", "attest", "web", "--nonce", nonce.hex(), "--user-data", "", "-o", str(output))
    )
    answer = parse_evidence(output.read_bytes()).answer
    assert answer.nonce == nonce
    return answer.record


def test_a_guest_sees_a_pause_where_its_manager_dies(host: RunningHost, console: Console) -> None:
    # Given a guest that keeps a word in its vTPM, and was attested
    console.run(f"tpm2_nvdefine -Q -C o -s 16 {INDEX}")
    assert "written" in console.run(WRITE.replace("WORD", "before----------"))
    record = attest(host)

    # When its Manager is killed, and started again while the guest writes
    kill(host, "manager")
    again = threading.Timer(1.0, lambda: host.tandem("host", "up"))
    again.start()
    begun = time.monotonic()
    written = console.run(WRITE.replace("WORD", "while-it-is-away"))
    waited = time.monotonic() - begun
    again.join()

    # Then the write waited and was done, and the pair is quoted as the very same one
    assert "written" in written
    assert waited > 0.9
    assert "while-it-is-away" in console.run(f"tpm2_nvread -C o {INDEX}")
    assert attest(host) == record


def test_manager_and_builder_may_die_together(host: RunningHost, console: Console) -> None:
    # Given a running guest, and nobody left of the host's services
    record = attest(host)
    kill(host, "manager", "builder")

    # When both are started again, and the Manager a second time
    host.tandem("host", "up")
    assert "written" in console.run(WRITE.replace("WORD", "after-both-died-"))
    kill(host, "manager")
    host.tandem("host", "up")

    # Then the guest writes and is quoted as before; a second guest never gets its vTPM
    assert "written" in console.run(WRITE.replace("WORD", "after-it-all----"))
    assert attest(host) == record
    assert host.refusal("guest", "start", "web")["code"] == "TDM-GUEST-RUNNING"


def test_what_was_acknowledged_is_there_after_the_guests_next_start(
    host: RunningHost, console: Console
) -> None:
    # Given a word written once the Manager came back, and the pair killed right after
    kill(host, "manager")
    host.tandem("host", "up")
    assert "written" in console.run(WRITE.replace("WORD", "the-last-word---"))
    host.tandem("guest", "stop", "web", "--kill")

    # When the guest starts again, and reads
    host.start()
    with Console(connect_console(host.host, "web")) as again:
        again.wait_for(PROMPT_MARK, BOOT_SECONDS)
        read = again.run(f"tpm2_nvread -C o {INDEX}")

    # Then its vTPM opened the newest state
    assert "the-last-word---" in read


def test_a_reboot_that_no_builder_saw_is_followed_by_a_start(
    host: RunningHost, console: Console
) -> None:
    # Given a guest without a builder
    [before] = host.pairs()
    kill(host, "builder")

    # When it reboots, and a builder comes
    console.type("reboot -f")
    host.wait_until(lambda: not alive(before["vtpm_pid"]), 20)
    host.tandem("host", "up")

    # Then the guest is started again, as a new pair
    host.wait_until(lambda: [each["state"] for each in host.pairs()] == ["running"], 20)
    [after] = host.pairs()
    assert after["pair_id"] != before["pair_id"]
    assert after["launch_number"] == before["launch_number"] + 1


def test_a_guest_that_powered_off_while_no_builder_lived_stays_off(
    host: RunningHost, console: Console
) -> None:
    # Given a guest without a builder
    [before] = host.pairs()
    kill(host, "builder")

    # When it powers off, and a builder comes
    console.type("poweroff -f")
    host.wait_until(lambda: not alive(before["vtpm_pid"]), 20)
    host.tandem("host", "up")

    # Then it is not started again
    assert host.pairs() == []
    assert host.leftovers() == []
