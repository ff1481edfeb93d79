"""A machine with the host image, under QEMU without KVM: a host to try what needs its own kernel.

It has no TPM: its pTPM is the embedded one, and /dev/tpm0 is whatever is made there.  Its disk is
/var/lib, which outlives a boot.
"""

from __future__ import annotations

import base64
import json
import shlex
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from peers.console import PROMPT_MARK, Console

COMMAND_LINE: Final = (
    "console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000 mitigations=off nokaslr "
    "random.trust_cpu=on cryptomgr.notests panic=-1"
)
MEMORY_MIB: Final = 1024
DISK_MIB: Final = 96
BOOT_SECONDS: Final = 120.0
COMMAND_SECONDS: Final = 90.0
LINE: Final = 640  # characters
CONNECT_SECONDS: Final = 10.0


class HostMachine:
    """One machine; `directory` holds its disk and its console's socket."""

    def __init__(self, image: Path, directory: Path) -> None:
        self._image = image
        self._directory = directory
        self._disk = directory / "disk"
        self._process: subprocess.Popen[bytes] | None = None
        self.console: Console
        subprocess.run(["mkfs.ext4", "-q", self._disk, f"{DISK_MIB}M"], check=True)

    def boot(self) -> None:
        """Start the machine and wait for its shell."""
        path = self._directory / "console.sock"
        path.unlink(missing_ok=True)
        arguments: list[str | Path] = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
            *("-kernel", self._image / "vmlinuz", "-initrd", self._image / "initramfs.cpio"),
            *("-append", COMMAND_LINE, "-no-reboot"),
            *("-drive", f"file={self._disk},format=raw,if=virtio"),
            *("-chardev", f"socket,id=console,path={path},server=on,wait=off"),
            *("-serial", "chardev:console"),
        ]
        self._process = subprocess.Popen(arguments, cwd=self._directory)
        self.console = Console(_connected(path))
        self.console.wait_for(PROMPT_MARK, BOOT_SECONDS)

    def cut_power(self) -> None:
        """End the machine as a power loss does, after what was written is on the disk."""
        if self._process is not None:
            self.console.run("sync")
            self.close()

    def close(self) -> None:
        """End the machine at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, command: str) -> str:
        """Have the shell run a command that must succeed, and give what it printed."""
        return self.console.run(command, COMMAND_SECONDS)

    def status(self, command: str) -> int:
        """Have the shell run a command that may fail, and give its exit status alone."""
        return int(self.run(f"({command}) >/dev/null 2>&1; echo $?"))

    def tandem(self, *arguments: str) -> Any:
        """Run a `tandem` command on the machine, and give the JSON that it printed."""
        printed = self.run(shlex.join(["tandem", *arguments, "--json"]))
        return json.loads(next(line for line in printed.splitlines() if line[:1] in "[{"))

    def put(self, path: str, content: bytes) -> None:
        """Write a small file there; the shell takes only so much in one line."""
        text = base64.b64encode(content).decode()
        self.run(f"rm -f {path}.base64")
        for start in range(0, len(text), LINE):
            self.run(f"echo {text[start : start + LINE]} >> {path}.base64")
        self.run(f"base64 -d {path}.base64 > {path}")

    def get(self, path: str) -> bytes:
        """Read a file from there."""
        return base64.b64decode(self.run(f"base64 {path}"))


def _connected(path: Path) -> socket.socket:
    """Connect to the console as soon as QEMU listens."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return sock
