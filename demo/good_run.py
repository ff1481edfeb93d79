"""The run without attackers: host, library, guest, deep quote, verdict."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from demo.stage import Stage, Surprise

GUEST: Final = "demo"
COMMAND_LINE: Final = (
    "console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000 mitigations=off nokaslr "
    "random.trust_cpu=on cryptomgr.notests panic=-1"
)


def provision_host(stage: Stage) -> None:
    """Create the host's Manager, keys and store, and start its services."""
    with stage.step("host provisioned") as said:
        stage.tandem("host", "init", "--approval-key", stage.work / "approval.key")
        stage.tandem("host", "up")
        status = stage.ask("host", "status")
        root = "hardware root" if status["hardware_root"] else "embedded pTPM: no hardware root"
        said(f"AK {status['host_ak_name'][4:20]}…, {root}")


def sign_library(stage: Stage) -> None:
    """Describe the demo's guest in a library and sign it."""
    with stage.step("library signed") as said:
        library = write_library(stage, stage.host / "library", COMMAND_LINE)
        stage.tandem("library", "keygen", "-o", stage.work / "library.key")
        shown = stage.ask("library", "sign", library, "--key", stage.work / "library.key")
        stage.trust_key(stage.work / "library.key.pub")
        said(f"version {shown['version']}, entry {GUEST}")


def write_library(stage: Stage, directory: Path, command_line: str) -> Path:
    """Write a library source with one entry, on copies of the guest image's files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("vmlinuz", "initramfs.cpio"):
        shutil.copy(stage.image / name, directory)
    source = directory / "library.toml"
    source.write_text(
        f"""[entries.{GUEST}]
kernel = "vmlinuz"
initrd = "initramfs.cpio"
command_line = "{command_line}"
"""
    )
    return source


def start_guest(stage: Stage) -> None:
    """Start the pair and show what was measured before the guest's first instruction."""
    with stage.step("guest started") as said:
        [pair] = stage.ask("guest", "start", GUEST)
        said(f"pair {pair['pair_id'][:12]}…, launch {pair['launch_number']}")
    with stage.step("launch measured") as said:
        [pair] = stage.ask("guest", "show", GUEST)
        registers = pair["launch"]["registers"]
        said(", ".join(f"PCR {index} {registers[index][:16]}…" for index in ("17", "18")))


def trust_the_host(stage: Stage) -> None:
    """Enrol the host at the verifier, and write the policy that the guest must satisfy."""
    work = stage.work
    with stage.step("host enrolled at the verifier") as said:
        stage.tandem("verifier", "keygen", "-o", work / "verifier.key")
        stage.tandem("host", "export", "-o", work / "host.json")
        via = f"{stage.command()} host activate"
        stage.tandem(
            *("verifier", "enroll", work / "host.json", "--via", via),
            *("--key", work / "verifier.key", "-o", work / "anchor.json"),
        )
        said("credential activated: AK and EK are in one TPM")
    with stage.step("policy written") as said:
        write_policy(stage, stage.host / "library" / "library.dsse.json", work / "policy.toml")
        said(f"guest {GUEST}, this host, this library")


def write_policy(stage: Stage, manifest: Path, policy: Path) -> None:
    """Write the appraisal policy for the demo's guest."""
    work = stage.work
    stage.tandem(
        *("policy", "new", "--anchor", work / "anchor.json"),
        *("--anchor-key", work / "verifier.key.pub", "--manifest", manifest),
        *("--manifest-key", work / "library.key.pub", "--entry", GUEST, "--guest", GUEST),
        *("--allow-no-hardware-root", "-o", policy),
    )


def attest_and_verify(stage: Stage, nonce: str) -> Path:
    """Fetch a deep quote from inside the guest and appraise it; give the report's path."""
    evidence, report = stage.work / "evidence.json", stage.work / "report.html"
    with stage.step("deep quote") as said:
        stage.tandem("guest", "attest", GUEST, "--nonce", nonce, "-o", evidence)
        said(f"{evidence.stat().st_size} bytes of evidence")
    with stage.step("verdict") as said:
        verdict = verify(stage, evidence, nonce, "--html", report)
        if not verdict["trusted"]:
            raise Surprise(f"the good run is not trusted: {verdict}")
        said(f"trusted, {len(verdict['findings'])} findings")
    return report


def verify(stage: Stage, evidence: Path, nonce: str, *more: str | Path) -> dict[str, Any]:
    """Appraise evidence against the demo's policy, whatever the verdict."""
    policy = stage.work / "policy.toml"
    answer: dict[str, Any] = stage.ask(
        "verify", evidence, "--policy", policy, "--nonce", nonce, *more, expect=None
    )
    return answer
