"""A UEFI guest's verdict: its quoted boot is the one that its library predicted, or what is not."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peers.console import PROMPT_MARK, Console
from tandem.cli.guest import connect_console
from tandem.evidence.prediction import REGISTERS
from tests.e2e.uefi_host import FIRMWARE, PROGRAMS, UefiHost, entry_of
from tests.integration.builder.running_host import COMMAND_LINE, IMAGE
from uefi_disk import Boot, systemd_boot_disk

BOOT_SECONDS = 240.0
PCRS = ",".join(map(str, REGISTERS))
pytestmark = pytest.mark.skipif(
    not all(Path(each).exists() for each in (FIRMWARE, *PROGRAMS)),
    reason="ovmf, mtools, dosfstools, binutils or sbsigntool is not installed",
)


class Verifier:
    """Who enrolled the host, and appraises its guests."""

    def __init__(self, host: UefiHost) -> None:
        self.host = host
        self.work = host.directory
        self.nonce = secrets.token_hex(32)
        key = self._at("verifier.key")
        host.tandem("verifier", "keygen", "-o", key)
        host.tandem("host", "export", "-o", self._at("host.json"))
        via = shlex.join(host.command("host", "activate"))
        host.tandem(
            *("verifier", "enroll", self._at("host.json"), "--via", via),
            *("--key", key, "-o", self._at("anchor.json")),
        )

    def _at(self, name: str) -> str:
        return str(self.work / name)

    def evidence(self, guest: str) -> str:
        """Start a guest, and let it attest once it is up."""
        self.host.start(guest)
        with Console(connect_console(self.host.host, guest)) as console:
            console.wait_for(PROMPT_MARK, BOOT_SECONDS)
            output = self._at(f"{guest}.json")
            self.host.tandem(
                *("guest", "attest", guest, "--nonce", self.nonce, "--pcrs", PCRS),
                *("-o", output, "--timeout", "300"),
            )
        self.host.run("guest", "stop", guest, "--kill")
        return output

    def verdict(
        self, evidence: str, guest: str, entry: str, *more: str, library: Path | None = None
    ) -> dict[str, Any]:
        """Appraise evidence as that of a guest of an entry."""
        library = library or self.host.library
        policy = self._at(f"{entry}.toml")
        self.host.tandem(
            *("policy", "new", "--anchor", self._at("anchor.json")),
            *("--anchor-key", self._at("verifier.key.pub")),
            *("--manifest", str(library / "library.dsse.json")),
            *("--manifest-key", f"{self.host.key}.pub", "--entry", entry, "--guest", guest),
            *("--allow-no-hardware-root", "-o", policy, *more),
        )
        done = self.host.run(
            "verify", evidence, "--policy", policy, "--nonce", self.nonce, "--json"
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    host = UefiHost()
    yield Verifier(host)
    host.close()


@pytest.fixture(scope="module")
def signed(verifier: Verifier) -> str:
    """Evidence of a guest with Secure Boot."""
    return verifier.evidence("signed")


@pytest.fixture(scope="module")
def plain(verifier: Verifier) -> str:
    """Evidence of a guest without."""
    return verifier.evidence("plain")


def against(verdict: dict[str, Any]) -> dict[str, str]:
    """What speaks against a guest, by rule."""
    return {each["rule"]: each["found"] for each in verdict["findings"]
            if each["tier"] != "AFFIRMING"}  # fmt: skip


def test_a_guest_that_booted_as_predicted_is_trusted(verifier: Verifier, plain: str) -> None:
    # Given evidence of a guest with systemd-boot
    # When it is appraised
    verdict = verifier.verdict(plain, "plain", "plain")

    # Then it is trusted, and the state of Secure Boot is in the verdict
    assert against(verdict) == {}
    assert verdict["trusted"]
    assert "Secure Boot is off" in str(verdict["findings"])


def test_secure_boot_can_be_demanded(verifier: Verifier, signed: str, plain: str) -> None:
    # Given evidence of a guest with Secure Boot, and of one without
    # When the policy demands it
    with_it = verifier.verdict(signed, "signed", "signed", "--secure-boot")
    without = verifier.verdict(plain, "plain", "plain", "--secure-boot")

    # Then the one is trusted, and the other is not, for that reason alone
    assert against(with_it) == {}
    assert against(without).keys() == {"secure-boot-is-as-demanded"}


def test_another_boot_is_named_part_by_part(verifier: Verifier, signed: str) -> None:
    # Given evidence of a guest with Secure Boot and a signed loader
    # When it is appraised as one of the entry without
    found = against(verifier.verdict(signed, "signed", "plain"))

    # Then state, keys, loader and kernel are named, each with what was measured
    assert "Secure Boot is on" in found["secure-boot-is-as-demanded"]
    assert "variable db: " in found["secure-boot-keys-are-as-predicted"]
    assert "BOOTX64.EFI" in found["boot-loader-is-as-predicted"]
    assert "tandem.efi" in found["booted-kernel-is-as-predicted"]
    # And so is a command line that systemd's stub passes over where Secure Boot is on
    assert "not measured: command line" in found["booted-command-line-is-as-predicted"]


def test_another_command_line_is_named_with_both(verifier: Verifier, plain: str) -> None:
    # Given a library whose image has another command line, and nothing else
    library, host = verifier.work / "other", verifier.host
    library.mkdir()
    (library / "scratch.img").write_bytes((host.library / "scratch.img").read_bytes())
    initrd = host.library / "initrd.gz"
    boot = Boot(
        kernel=IMAGE / "vmlinuz", initrd=initrd, command_line=f"{COMMAND_LINE} init=/bin/sh"
    )
    systemd_boot_disk(library / "plain.img", boot)
    (library / "library.toml").write_text(entry_of("plain", "", "plain"))
    host.tandem("library", "sign", str(library / "library.toml"), "--key", str(host.key))

    # When a guest is appraised by it that booted the first
    found = against(verifier.verdict(plain, "plain", "plain", library=library))

    # Then the finding shows what was predicted and what was measured; the loader is the same
    shown = found["booted-command-line-is-as-predicted"]
    assert f"{COMMAND_LINE} init=/bin/sh; measured {COMMAND_LINE}" in shown
    assert "boot-loader-is-as-predicted" not in found
