"""A guest and swtpm, paired the usual way: by a control socket that has a path.

Nobody measures the guest from outside, and whoever reaches the socket is the next guest.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers.console import Console

START_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a guest boots."""

    kernel: Path
    initrd: Path
    command_line: str
    memory_mib: int = 256


@contextlib.contextmanager
def swtpm(directory: Path) -> Iterator[Path]:
    """Run swtpm on the state in `directory`; give the path of its control socket.

    Without `--terminate`, as it is commonly run by hand: it serves one hypervisor after another.
    """
    control = directory / "ctrl.sock"
    control.unlink(missing_ok=True)
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}"]
    with (directory / "swtpm.log").open("ab") as log:
        process = subprocess.Popen([*command, "--ctrl", f"type=unixio,path={control}"], stderr=log)
    try:
        wait_for_path(control)
        yield control
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def guest(image: Image, control: Path, directory: Path) -> Iterator[Console]:
    """Run a guest on the vTPM behind `control`; give its console, and kill it at the end."""
    console = directory / "console.sock"
    console.unlink(missing_ok=True)
    process = subprocess.Popen(qemu_command(image, control, console))
    try:
        with Console(_connect(console)) as connected:
            yield connected
    finally:
        process.kill()
        process.wait()


def qemu_command(image: Image, control: Path, console: Path) -> list[str]:
    """Give the command line: the machine of a Tandem guest, with the vTPM behind a path."""
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", str(image.memory_mib)),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", image.command_line),
        *("-chardev", f"socket,id=tpm,path={control}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm0"),
        *("-chardev", f"socket,id=console,path={console},server=on,wait=off"),
        *("-serial", "chardev:console"),
    ]


def _connect(path: Path) -> socket.socket:
    """Connect as soon as the other side listens; the path is there a moment before."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return connection


def wait_for_path(path: Path) -> None:
    """Wait until a program has made its socket or file."""
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear in {START_SECONDS} s")
        time.sleep(POLL_SECONDS)
