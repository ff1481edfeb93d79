"""The attacks of the demonstration: each must be refused, by name."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Final

from demo import good_run
from demo.good_run import COMMAND_LINE, GUEST
from demo.stage import Stage, Surprise
from peers import copied_guest as copy
from peers import plain
from peers.console import PROMPT_MARK, Console
from tandem.builder.door import DOOR

OTHER: Final = "other"
GONE_SECONDS: Final = 1.0
BOOT_SECONDS: Final = 120.0


def changed_kernel(stage: Stage) -> None:
    """(a) One byte of the kernel differs from the manifest: no pair is built."""
    with stage.step("(a) a kernel changed by one byte") as said:
        stage.tandem("guest", "stop", GUEST)
        kernel = stage.host / "library" / "vmlinuz"
        original = kernel.read_bytes()
        kernel.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        refusal = stage.refusal("guest", "start", GUEST)
        kernel.write_bytes(original)
        said(f"refused at build, {refusal['code']}")


def other_command_line(stage: Stage) -> None:
    """(b) A guest that its own signed manifest allows and the policy does not."""
    with stage.step("(b) another command line, allowed by its own manifest") as said:
        own_library(stage, f"{COMMAND_LINE} tandem.other=1")
        stage.tandem("guest", "start", OTHER, "--entry", GUEST, *own_library_options(stage))
        verdict = attest_now(stage, "other-command-line.json", OTHER)
        said(f"not trusted: {named_finding(verdict, 'command-line')}")
        stage.tandem("guest", "stop", OTHER)


def replayed_quote(stage: Stage) -> None:
    """(d) A genuine deep quote answers a nonce that the verifier did not ask."""
    with stage.step("(d) the deep quote from before, replayed") as said:
        verdict = good_run.verify(stage, stage.work / "evidence.json", secrets.token_hex(32))
        said(f"not trusted: {named_finding(verdict, 'nonce')}")


def killed_guest(stage: Stage) -> None:
    """(c) The guest is killed: its vTPM is gone, without anybody's help."""
    with stage.step("(c) the pair's guest killed") as said:
        [pair] = stage.ask("guest", "start", GUEST)
        killed = time.monotonic()
        os.kill(pair["hypervisor_pid"], signal.SIGKILL)
        while Path(f"/proc/{pair['vtpm_pid']}/exe").exists():
            if time.monotonic() - killed > GONE_SECONDS:
                raise Surprise("the vTPM outlived its guest by a second")
            time.sleep(0.001)
        said(f"vTPM gone after {1000 * (time.monotonic() - killed):.0f} ms")
        stage.wait_until_ended(GUEST)


def copied_guest(stage: Stage) -> None:
    """(e) R4: a manipulated copy on the original's vTPM; first where it works."""
    with stage.step("(e) R4, the copy on the original's vTPM: plain swtpm and QEMU") as said:
        if not copy_passes_on_plain_swtpm(stage):
            raise Surprise("the control failed: plain swtpm refused the copy")
        said("the copy's quote is accepted as the original's")
    own_library(stage, f"{COMMAND_LINE} {copy.MANIPULATED_WORD}")
    with stage.step("(e) the same on Tandem, beside the running original") as said:
        [original] = stage.ask("guest", "start", GUEST)
        refusal = stage.refusal("guest", "start", GUEST, *own_library_options(stage))
        said(f"refused, {refusal['code']}; {paths_to_the_vtpm(original['vtpm_pid'])}")
        stage.tandem("guest", "stop", GUEST, "--kill")
    with stage.step("(e) the same on Tandem, after the original stopped") as said:
        refusal = stage.refusal("guest", "start", GUEST, *own_library_options(stage))
        said(f"refused, {refusal['code']}")
    with stage.step("(e) the same, by somebody who has the library's key") as said:
        manifest = library_of_the_key_holder(stage, f"{COMMAND_LINE} {copy.MANIPULATED_WORD}")
        stage.tandem("guest", "start", GUEST, "--library", manifest)
        with stage.console(GUEST) as console:
            ready(console)
            copy.measure_itself(console)
        verdict = attest_now(stage, "copied-guest.json")
        said(f"not trusted: {named_finding(verdict, 'command-line')}")
        stage.tandem("guest", "stop", GUEST)


def copy_passes_on_plain_swtpm(stage: Stage) -> bool:
    """Run R4 on plain swtpm: original boots, is stopped, the copy boots on the same vTPM."""
    directory = stage.work / "plain"
    directory.mkdir()
    honest = plain.Image(
        kernel=stage.image / "vmlinuz",
        initrd=stage.image / "initramfs.cpio",
        command_line=COMMAND_LINE,
    )
    manipulated = plain.Image(
        kernel=honest.kernel,
        initrd=honest.initrd,
        command_line=f"{COMMAND_LINE} {copy.MANIPULATED_WORD}",
    )
    with plain.swtpm(directory) as control:
        with plain.guest(honest, control, directory) as console:
            ready(console)
            key = copy.create_key(console)
        with plain.guest(manipulated, control, directory) as console:
            ready(console)
            copy.measure_itself(console)
            nonce = secrets.token_bytes(32)
            quoted = copy.quote(console, nonce)
    if copy.MANIPULATED_WORD not in quoted.command_line:
        raise Surprise("the control is no control: the copy is not manipulated")
    return copy.verifier_accepts(quoted, key, nonce, directory)


def ready(console: Console) -> None:
    """Wait for the guest's shell."""
    console.wait_for(PROMPT_MARK, BOOT_SECONDS)


def paths_to_the_vtpm(pid: int) -> str:
    """Say how many sockets of the vTPM somebody could connect to; the builder's door alone."""
    inodes = {
        target.removeprefix("socket:[").removesuffix("]")
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if (target := os.readlink(entry)).startswith("socket:")
    }
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    named = [row for row in rows if row[6] in inodes and len(row) > 7 and Path(row[7]).name != DOOR]
    if named or not inodes:
        raise Surprise(f"the vTPM's sockets {sorted(inodes)} have names: {named}")
    return f"its {len(inodes)} sockets have no name to connect to, but for the builder's own door"


def own_library(stage: Stage, command_line: str) -> Path:
    """Sign a library of an administrator's own, with a key of his own."""
    key = stage.work / "own.key"
    if not key.exists():
        stage.tandem("library", "keygen", "-o", key)
    return sign_anew(stage, stage.work / "own", command_line, key)


def library_of_the_key_holder(stage: Stage, command_line: str) -> Path:
    """Sign another library with the key that the host trusts."""
    # By another name: two libraries of one name, version and signer are refused as such.
    key = stage.work / "library.key"
    return sign_anew(stage, stage.work / "insider", command_line, key, "insider")


def sign_anew(
    stage: Stage, directory: Path, command_line: str, key: Path, name: str = "main"
) -> Path:
    """Write a library with the demo's guest and this command line, and sign it."""
    shutil.rmtree(directory, ignore_errors=True)
    source = good_run.write_library(stage, directory, command_line)
    with source.open("a") as file:
        file.write(f'[library]\nname = "{name}"\n')
    stage.tandem("library", "sign", source, "--key", key)
    return directory / "library.dsse.json"


def own_library_options(stage: Stage) -> tuple[str | Path, ...]:
    """Give the options that start a guest from the administrator's own library."""
    manifest = stage.work / "own" / "library.dsse.json"
    return ("--library", manifest, "--library-key", stage.work / "own.key.pub")


def attest_now(stage: Stage, name: str, guest: str = GUEST) -> dict[str, Any]:
    """Attest a running guest with a fresh nonce and appraise the evidence."""
    nonce, evidence = secrets.token_hex(32), stage.work / name
    stage.tandem("guest", "attest", guest, "--nonce", nonce, "-o", evidence)
    return good_run.verify(stage, evidence, nonce)


def named_finding(verdict: dict[str, Any], word: str) -> str:
    """Give the rule, among the findings against the evidence, that names what was done."""
    against = [each["rule"] for each in verdict["findings"] if each["tier"] == "CONTRAINDICATED"]
    named = [rule for rule in against if word in rule]
    if verdict["trusted"] or not named:
        raise Surprise(f"no finding about {word}, only {against}")
    return str(named[0])
