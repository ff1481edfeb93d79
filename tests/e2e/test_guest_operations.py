"""A real guest that is paused, stopped, panics, hangs, sleeps or is debugged; and its vTPM's locks.

Each guest here is booted once for all that is asked of it while it lives.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from peers.console import PROMPT_MARK, Console, ConsoleTimeout
from tandem.cli.guest import connect_console
from tandem.evidence.authorizations import Authorizations, Standing, parse_authorizations
from tandem.evidence.bundle import parse_evidence
from tests.integration.builder.running_host import COMMAND_LINE, ROOT, RunningHost, alive

BOOT_SECONDS = 60.0
BANK = "/sys/class/tpm/tpm0/pcr-sha256"
WATCHDOG_ID = "0x8086:0x25ab"
# Intel 6300ESB (datasheet 300641, section 16): at 1 MHz (0x60, bit 2), enabled (0x68, bit 1).
START_WATCHDOG = (
    "for d in /sys/bus/pci/devices/*; do "
    f"[ $(cat $d/vendor):$(cat $d/device) = {WATCHDOG_ID} ] || continue; "
    "printf '\\004\\000' | dd of=$d/config bs=2 seek=48 conv=notrunc 2>/dev/null; "
    "printf '\\002' | dd of=$d/config bs=1 seek=104 conv=notrunc 2>/dev/null; done"
)


@pytest.fixture(scope="module")
def other_library(running_host: RunningHost) -> list[str]:
    """A library of guests without firmware that uses the TPM, strict ones, and one to debug."""
    folder = running_host.directory / "others"
    folder.mkdir()
    for name in ("vmlinuz", "initramfs.cpio"):
        shutil.copy(running_host.library / name, folder)
    entry = f'kernel = "vmlinuz"\ninitrd = "initramfs.cpio"\ncommand_line = "{COMMAND_LINE}"\n'
    (folder / "library.toml").write_text(
        f'[library]\nname = "others"\n[entries.bare]\nfirmware = "/usr/share/qemu/qboot.rom"\n'
        f'platform_auth = "vtpm"\nlockout_auth = "strict"\n{entry}'
        f'[entries.careless]\nfirmware = "/usr/share/qemu/qboot.rom"\n{entry}'
        f"[entries.open]\ndebugger = true\n{entry}"
    )
    running_host.tandem(
        "library", "sign", str(folder / "library.toml"), "--key", str(running_host.key)
    )
    return ["--library", str(folder / "library.dsse.json")]


@contextmanager
def booted(host: RunningHost, name: str, *more: str) -> Iterator[Console]:
    host.start(name, *more)
    with Console(connect_console(host.host, name)) as console:
        console.wait_for(PROMPT_MARK, BOOT_SECONDS)
        yield console


def last_words(console: Console) -> None:
    """Read until the guest is gone: one whose console nobody reads takes its time to panic."""
    with pytest.raises(ConsoleTimeout, match="the guest is gone"):
        console.wait_for("what no guest says", BOOT_SECONDS)


def ending(host: RunningHost, guest: str) -> dict[str, Any]:
    """Wait until a guest is gone, and give why."""
    host.wait_until(lambda: guest not in [pair["guest"] for pair in host.pairs()], BOOT_SECONDS)
    endings: list[dict[str, Any]] = host.ask("guest", "list", "--ended")
    [found] = [each for each in endings if each["guest"] == guest]
    return found


def evidence(host: RunningHost, guest: str) -> tuple[bytes, str]:
    nonce, output = secrets.token_hex(32), host.directory / "evidence.json"
    host.tandem("guest", "attest", guest, "--nonce", nonce, "-o", str(output))
    return output.read_bytes(), nonce


def authorizations(host: RunningHost, guest: str) -> Authorizations:
    return parse_authorizations(parse_evidence(evidence(host, guest)[0]).answer.authorizations)


def test_a_guest_feels_nothing_of_its_pause_and_its_tpm_answers_as_before(
    host: RunningHost, console: Console
) -> None:
    # Given a guest that wrote to a PCR
    digest = secrets.token_hex(32)
    console.run(f"tpm2_pcrextend 10:sha256={digest}")
    before = console.run(f"cat {BANK}/10")
    uptime = float(console.run("cut -d' ' -f1 /proc/uptime"))
    # When it is paused for two seconds
    host.tandem("guest", "pause", "web")
    time.sleep(2)
    host.tandem("guest", "resume", "web")
    # Then its clock shows next to nothing of it, and its PCRs are those of this very launch
    assert float(console.run("cut -d' ' -f1 /proc/uptime")) - uptime < 2
    assert console.run(f"cat {BANK}/10") == before
    assert console.run("tpm2_getrandom --hex 4").strip()


def test_a_guest_that_ignores_its_power_button_is_powered_off_in_time(
    host: RunningHost, console: Console
) -> None:
    # Given a guest without anything that listens to the button
    console.run("kill $(cat /tmp/acpid.pid)")
    # When it is stopped with two seconds' patience
    begun = time.monotonic()
    host.tandem("guest", "stop", "web", "--timeout", "2")
    # Then it had them, and was powered off
    assert 2.0 <= time.monotonic() - begun < 10.0
    assert ending(host, "web")["reason"] == "stopped"
    assert host.leftovers() == []


def test_a_panic_ends_the_pair_and_is_told(host: RunningHost, console: Console) -> None:
    # Given a guest
    [pair] = host.pairs()
    # When its kernel panics
    console.type("echo c > /proc/sysrq-trigger")
    last_words(console)
    found = ending(host, "web")
    # Then the pair is gone, and everybody who asks is told why
    assert (found["reason"], found["pair_id"]) == ("panicked", pair["pair_id"])
    assert not alive(pair["vtpm_pid"])
    assert "its kernel panicked" in host.refusal("guest", "show", "web")["problem"]
    last = (host.host / "run" / "builder.log").read_text().rpartition('"pair.ended"')[2]
    assert '"reason": "panicked"' in last


def test_a_watchdog_that_nobody_feeds_ends_the_pair(host: RunningHost, console: Console) -> None:
    # Given a guest that set its watchdog to two seconds
    console.type(START_WATCHDOG)
    # When it does nothing more
    last_words(console)
    # Then it is gone, and why is known
    assert ending(host, "web")["reason"] == "watchdog"


def test_sleep_is_not_there_for_the_guest(console: Console) -> None:
    # Given a guest
    # When it looks for states of sleep
    kinds = console.run("cat /sys/power/mem_sleep")
    methods = console.run("cat /sys/power/disk")
    supported = console.run("dmesg | grep 'ACPI: PM: (supports'")
    # Then it finds neither S3 nor S4: what is left keeps the machine on, or ends it
    assert "deep" not in kinds
    assert "platform" not in methods
    assert "(supports S0 S5)" in supported
    assert console.run("echo deep > /sys/power/mem_sleep 2>&1 || echo refused").endswith(
        "refused\n"
    )


def test_firmware_sets_platform_auth_and_the_system_has_lockout_auth(
    host: RunningHost, console: Console
) -> None:
    # Given a guest that SeaBIOS booted
    # When its evidence is read, before and after its system set lockoutAuth
    first = authorizations(host, "web")
    console.run("tpm2_changeauth -c lockout secret")
    second = authorizations(host, "web")
    tried = console.run("tpm2_dictionarylockout -c -p secret && tpm2_clear -c platform; echo $?")
    # Then both are told, and platformAuth is none that the guest knows
    assert first == Authorizations(platform=Standing.SET, lockout=Standing.EMPTY)
    assert second == Authorizations(platform=Standing.SET, lockout=Standing.SET)
    assert tried.splitlines()[-1] != "0"


def test_without_firmware_the_vtpm_sets_both_where_its_entry_is_strict(
    host: RunningHost, other_library: list[str]
) -> None:
    # Given a guest whose firmware leaves the TPM alone
    with booted(host, "bare", *other_library) as console:
        # When its system looks
        found = authorizations(host, "bare")
        tried = [
            console.run(f"{command} >/dev/null 2>&1; echo $?").strip()
            for command in ("tpm2_clear -c p", "tpm2_clear -c l", "tpm2_dictionarylockout -c")
        ]
        zero = console.run(f"cat {BANK}/0").strip()
    # Then it knows neither authorization, and its firmware measured nothing
    assert found == Authorizations(platform=Standing.SET, lockout=Standing.SET)
    assert "0" not in tried
    assert set(zero) == {"0"}
    # And that lockoutAuth is set is not forgotten over a restart
    host.tandem("guest", "restart", "bare", "--timeout", "0")
    with Console(connect_console(host.host, "bare")) as console:
        console.wait_for(PROMPT_MARK, BOOT_SECONDS)
        assert authorizations(host, "bare").lockout is Standing.SET


class Verifier:
    """Enrolled this host; judges guests of one library."""

    def __init__(self, host: RunningHost, library: str) -> None:
        self._host, self._library = host, library
        self._work = host.directory
        key, export = str(self._work / "verifier.key"), str(self._work / "host.json")
        host.tandem("verifier", "keygen", "-o", key)
        host.tandem("host", "export", "-o", export)
        via = " ".join([f"PYTHONPATH={ROOT / 'src'}", *host.command("host", "activate")])
        host.tandem(
            *("verifier", "enroll", export, "--via", f"env {via}", "--key", key),
            *("-o", str(self._work / "anchor.json")),
        )

    def verdict(self, guest: str, *more: str) -> dict[str, dict[str, Any]]:
        """Give the findings on a guest that has the name of its entry, by their rules."""
        policy, shown = self._work / "policy.toml", self._work / "shown.json"
        policy.unlink(missing_ok=True)
        self._host.tandem(
            *("policy", "new", "--anchor", str(self._work / "anchor.json")),
            *("--anchor-key", str(self._work / "verifier.key.pub"), "--manifest", self._library),
            *("--manifest-key", f"{self._host.key}.pub", "--entry", guest, "--guest", guest),
            *("--allow-no-hardware-root", "-o", str(policy), *more),
        )
        data, nonce = evidence(self._host, guest)
        shown.write_bytes(data)
        done = self._host.run(
            *("verify", str(shown), "--policy", str(policy), "--nonce", nonce, "--json")
        )
        return {each["rule"]: each for each in json.loads(done.stdout)["findings"]}


@pytest.fixture(scope="module")
def verifier(running_host: RunningHost, other_library: list[str]) -> Verifier:
    return Verifier(running_host, other_library[1])


def against(findings: dict[str, dict[str, Any]]) -> set[str]:
    return {rule for rule, each in findings.items() if each["tier"] != "AFFIRMING"}


def test_an_entry_that_leaves_platform_auth_to_firmware_that_does_not_set_it_is_told(
    host: RunningHost, other_library: list[str], verifier: Verifier
) -> None:
    # Given an entry that relies on firmware which leaves the TPM alone
    with booted(host, "careless", *other_library):
        # When its guest is appraised
        findings = verifier.verdict("careless")
    # Then the verdict says what its root can do, and holds nothing else against it
    assert against(findings) == {"platform-auth-is-set"}
    assert "platformAuth is empty" in findings["platform-auth-is-set"]["found"]
    assert "lockoutAuth is empty" in findings["lockout-auth-is-as-demanded"]["found"]


def test_a_debugger_is_measured_and_refused_unless_the_policy_allows_it(
    host: RunningHost, other_library: list[str], verifier: Verifier
) -> None:
    # Given a guest whose signed entry allows a debugger
    with booted(host, "open", *other_library):
        # When it is appraised by a policy that says nothing of debuggers, and by one that does
        silent, allowing = (verifier.verdict("open", *more) for more in ([], ["--allow-debugger"]))
        # And gdb's protocol is spoken to it
        done = subprocess.run(
            host.command("guest", "debug", "open"),
            input=b"+$g#67+",
            capture_output=True,
            env=host.environment,
            timeout=20,
            check=False,
        )
    # Then the first refuses it, by that rule alone, and the second does not
    assert against(silent) == {"nobody-can-debug-the-guest"}
    assert against(allowing) == set()
    # And the debugger answers
    assert b"$T02" in done.stdout, done.stderr


def test_a_debugger_that_nobody_configured_cannot_be_reached(host: RunningHost) -> None:
    # Given a guest as any
    host.start()
    # When somebody wants to debug it
    refusal = host.refusal("guest", "debug", "web")
    # Then there is nothing that could be debugged
    assert refusal["code"] == "TDM-GUEST-NO-DEBUGGER"
