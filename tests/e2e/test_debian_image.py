"""`tandem library build debian`: one command, and a guest whose root nobody changes unnoticed.

One image and one boot serve all of it.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.console import Console
from tandem.cli.guest import connect_console
from tandem.evidence.bundle import parse_evidence
from tests.integration.builder.running_host import RunningHost

BLOCK = 128 * 1024  # of squashfs: what does not compress is stored as it is
GUEST = "deb"
BOOT_SECONDS = 800.0  # 30 on a machine that does nothing else
PROMPT = "root@deb:~#"
# What the guest reads late, and nothing in it compresses: two blocks.
CONTENT = b"".join(hashlib.sha256(n.to_bytes(4)).digest() for n in range(2 * BLOCK // 32))
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = "/srv/ledger"


@pytest.fixture(scope="module")
def debian(running_host: RunningHost) -> RunningHost:
    """The host, with an image of one command in its library, and a copy that nothing protects."""
    overlay = running_host.directory / "overlay"
    (overlay / "srv").mkdir(parents=True)
    (overlay / "srv" / "ledger").write_bytes(CONTENT)
    build = ("library", "build", "debian", GUEST, "--overlay", str(overlay), "--autologin")
    running_host.tandem(*build)
    shutil.copy(root(running_host), running_host.library / "copy.img")
    source = running_host.library / "library.toml"
    copy = f'\n[[entries.{GUEST}.disks]]\nid = "copy"\nkind = "data"\npath = "copy.img"\n'
    source.write_text(source.read_text() + copy)
    running_host.tandem("library", "sign", "--key", str(running_host.key))
    return running_host


@pytest.fixture(scope="module")
def console(debian: RunningHost) -> Iterator[Console]:
    """The guest's console, where root is logged in."""
    debian.start(GUEST)
    with Console(connect_console(debian.host, GUEST)) as console:
        console.wait_for(PROMPT, BOOT_SECONDS)
        console.type("exec sh")  # bash decorates more than its prompt
        yield console


def said(console: Console, command: str) -> str:
    """Run a command in the guest and give what it printed, without a prompt before it."""
    return console.run(command).strip().removeprefix("#").strip()


def root(host: RunningHost) -> Path:
    return host.library / "debian" / GUEST / "root.img"


def flip(path: Path) -> None:
    """Change one byte in the middle of the ledger, where the image has it as it is."""
    at = path.read_bytes().index(CONTENT[:BLOCK]) + BLOCK // 2
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_the_root_hash_is_in_the_entry_and_on_the_measured_command_line(
    debian: RunningHost, console: Console
) -> None:
    # Given a guest that boots from the image
    entry = tomllib.loads((debian.library / "library.toml").read_text())["entries"][GUEST]
    disk = next(each for each in entry["disks"] if each["id"] == "root")
    # When its launch and its own command line are read
    [shown] = debian.ask("guest", "show", GUEST)
    measured = [
        str(event["data"])
        for event in shown["launch"]["events"]
        if event["event"] in ("command-line", "disk")
    ]
    running = said(console, "cat /proc/cmdline")
    # Then the command line has the root hash, there and in the guest, and so has the disk
    assert disk["kind"] == "verity"
    assert sum(disk["root_hash"] in each for each in measured) == 2
    assert f"tandem.roothash={disk['root_hash']}" in running


def test_the_guest_is_attested_without_a_program_of_anybody_else(
    debian: RunningHost, console: Console
) -> None:
    # Given the guest, and a nonce
    nonce, output = secrets.token_bytes(32), debian.directory / "evidence.json"
    # When it is attested
    debian.tandem("guest", "attest", GUEST, "--nonce", nonce.hex(), "-o", str(output))
    # Then its own attester answered
    assert parse_evidence(output.read_bytes()).answer.nonce == nonce
    assert said(console, "systemctl is-active tandem-attester") == "active"


def test_nothing_failed_and_there_is_no_network(debian: RunningHost, console: Console) -> None:
    # Given the guest
    # When its system is asked what failed, and which networks it has
    failed = said(console, "systemctl --failed --no-legend --no-pager")
    links = said(console, "ls /sys/class/net").split()
    # Then nothing did, and there is none
    assert failed == ""
    assert links == ["lo"]


def test_what_the_guest_writes_is_not_in_the_image(debian: RunningHost, console: Console) -> None:
    # Given the image
    before = root(debian).stat().st_mtime_ns
    # When the guest writes to its root
    console.run("echo changed >/etc/motd && sync")
    # Then it reads that, and the image is as it was
    assert said(console, "cat /etc/motd") == "changed"
    assert root(debian).stat().st_mtime_ns == before


def test_a_changed_byte_is_not_read_and_without_verity_it_is(
    debian: RunningHost, console: Console
) -> None:
    # Given the guest's root and an unprotected copy of it, with one byte of a file changed in both
    flip(root(debian))
    flip(debian.library / "copy.img")
    console.run("mkdir -p /mnt/copy && mount -t squashfs -o ro /dev/vdb /mnt/copy")
    # When the guest reads that file from both
    copied = said(console, f"sha256sum /mnt/copy{FILE}").split()[0]
    status = console.run(f"cat {FILE} >/dev/null; echo status $?")
    # Then the copy gives what somebody wrote there, and the root gives an error and nothing else
    assert copied not in ("", DIGEST)
    assert len(copied) == len(DIGEST)
    assert "Input/output error" in status
    assert "status 1" in status


def test_a_damaged_image_is_not_taken_for_the_one_that_was_made(
    debian: RunningHost, console: Console
) -> None:
    # Given the image with its changed byte, and a guest that ends in order
    debian.tandem("guest", "stop", GUEST)
    before = debian.ask("library", "show")["entries"][GUEST]
    overlay = debian.directory / "overlay"
    # When it is built again
    build = ("library", "build", "debian", GUEST, "--overlay", str(overlay), "--autologin")
    made = debian.ask(*build)
    # Then it was made anew, byte for byte as before: the entry holds, and needs no signature
    debian.tandem("library", "verify")
    assert made["new"]
    assert debian.ask("library", "show")["entries"][GUEST] == before
    entry = tomllib.loads((debian.library / "library.toml").read_text())["entries"][GUEST]
    assert made["root_hash"] in entry["command_line"]
    assert f"tandem.roothash={made['root_hash']}" in debian.tandem("library", "show")
    # And a third time it is kept
    assert not debian.ask(*build)["new"]
