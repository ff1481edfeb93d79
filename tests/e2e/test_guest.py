"""A real guest and its vTPM: launched as measured, attested from within, ended together."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from peers.console import PROMPT_MARK, Console
from tandem.cli.guest import connect_console
from tandem.errors import Refused
from tandem.evidence.bundle import parse_evidence
from tandem.evidence.pair_record import parse_pair_record
from tests.integration.builder.running_host import RunningHost, alive

BOOT_SECONDS = 60.0
DIGEST = hashlib.sha256(b"what a guest extends").hexdigest()
BANK = "/sys/class/tpm/tpm0/pcr-sha256"


def register(console: Console, index: int) -> str:
    return console.run(f"cat {BANK}/{index}").strip().lower()


def test_the_guest_finds_its_launch_measured_as_predicted(
    host: RunningHost, console: Console
) -> None:
    # Given a guest at its shell
    predicted = host.ask("guest", "show", "web")[0]["launch"]["registers"]
    # When it reads its PCRs
    found = {str(index): register(console, index) for index in (17, 18)}
    # Then they hold what the builder said before its first instruction
    assert found == predicted


@pytest.mark.parametrize("command", ["tpm2_pcrextend 17:sha256=" + DIGEST, "tpm2_pcrreset 18"])
def test_the_guest_cannot_change_its_launch_measurement(console: Console, command: str) -> None:
    # Given a guest at its shell
    before = [register(console, index) for index in (17, 18)]
    # When its root tries to change them
    status = console.run(f"{command} >/dev/null 2>&1; echo $?").strip()
    # Then its vTPM refuses
    assert status != "0"
    assert [register(console, index) for index in (17, 18)] == before


def test_a_guest_is_attested_by_a_program_of_its_own(host: RunningHost, console: Console) -> None:
    # Given a verifier's nonce and a channel's key
    nonce, user_data = secrets.token_bytes(32), b"the key of a channel"
    output = host.directory / "evidence.json"
    # When the guest is attested
    host.tandem(
        *("guest", "attest", "web", "--nonce", nonce.hex(), "--user-data", user_data.hex()),
        *("--pcrs", "0,10", "-o", str(output)),
    )
    # Then the evidence is of this pair, fresh, and bound to the channel
    answer = parse_evidence(output.read_bytes()).answer
    [pair] = host.ask("guest", "list")
    assert (answer.nonce, answer.user_data) == (nonce, user_data)
    assert set(answer.vtpm_pcrs) == {0, 10, 17, 18}
    assert parse_pair_record(answer.record).pair_id.hex() == pair["pair_id"]


def test_a_reboot_is_a_new_pair_with_nothing_of_the_old_registers(
    host: RunningHost, console: Console
) -> None:
    # Given a guest that extended a PCR and keeps a key in its vTPM
    console.run(f"tpm2_pcrextend 10:sha256={DIGEST}")
    console.run("tpm2_createprimary -Q -C o -c k.ctx && tpm2_evictcontrol -Q -C o -c k.ctx "
                "0x81000010")  # fmt: skip
    extended = register(console, 10)
    [before] = host.pairs()
    # When it reboots itself
    console.type("reboot -f")
    host.wait_until(
        lambda: (
            [pair["state"] for pair in host.pairs()] == ["running"]
            and host.pairs()[0]["pair_id"] != before["pair_id"]
        ),
        BOOT_SECONDS,
    )
    with Console(connect_console(host.host, "web")) as again:
        again.wait_for(PROMPT_MARK, BOOT_SECONDS)
        fresh, handles = register(again, 10), again.run("tpm2_getcap handles-persistent")
    # Then pair and processes are new, PCR 10 is not the old one, and the key is still there
    [after] = host.pairs()
    assert after["launch_number"] == before["launch_number"] + 1
    assert after["vtpm_pid"] != before["vtpm_pid"]
    assert not alive(before["vtpm_pid"])
    assert fresh != extended
    assert "0x81000010" in handles


def test_a_guest_that_powers_off_takes_its_vtpm_with_it(
    host: RunningHost, console: Console
) -> None:
    # Given a guest at its shell
    [pair] = host.pairs()
    # When it powers off
    console.type("poweroff -f")
    host.wait_until(lambda: not alive(pair["hypervisor_pid"]), BOOT_SECONDS)
    # Then its vTPM is gone within a second, and the pair with it
    host.wait_until(lambda: not alive(pair["vtpm_pid"]), 1.0)
    host.wait_until(lambda: host.pairs() == [])
    assert host.leftovers() == []


@pytest.mark.usefixtures("console")
def test_a_guest_that_is_asked_to_stop_does(host: RunningHost) -> None:
    # Given a guest at its shell
    # When it is asked to stop, with much time
    host.tandem("guest", "stop", "web", "--timeout", "50")
    # Then its system followed, and nothing is left
    log = (host.host / "run" / "builder.log").read_text()
    assert '"kill_asked"' not in log.rpartition('"stop_asked"')[2]
    assert host.leftovers() == []


@pytest.mark.usefixtures("console")
def test_a_console_is_one_persons(host: RunningHost) -> None:
    # Given a guest whose console somebody uses
    # When somebody else connects
    with pytest.raises(Refused) as refused:
        connect_console(host.host, "web")
    # Then he is refused
    assert refused.value.code == "TDM-GUEST-PORT-BUSY"


def test_a_guest_whose_attester_is_not_up_yet_is_waited_for_and_no_longer(
    host: RunningHost,
) -> None:
    # Given a guest that has just begun to boot
    host.start("brief")
    # When evidence is asked for with too little patience
    arguments = (
        "guest",
        "attest",
        "brief",
        "--nonce",
        "00" * 32,
        "-o",
        str(host.directory / "none"),
    )
    refusal = host.refusal(*arguments, "--timeout", "0")
    # Then the error says who was silent
    assert refusal["code"] == "TDM-ATTESTER-SILENT"


@pytest.mark.usefixtures("console")
def test_the_log_of_a_console_is_kept_while_the_guest_runs(host: RunningHost) -> None:
    # Given a guest at its shell
    # When its console's log is printed
    log = host.tandem("guest", "console", "web", "--log")
    # Then it shows what the guest showed
    assert PROMPT_MARK in log
