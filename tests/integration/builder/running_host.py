"""A real host for tests: Manager with an embedded pTPM, builder, zygote, library of guests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / ".cache" / "images" / "current"
COMMAND_LINE = (
    "console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000 mitigations=off nokaslr "
    "random.trust_cpu=on cryptomgr.notests panic=-1"
)
GONE_SECONDS = 5.0


class RunningHost:
    """A host directory with its services; `close` ends and removes all of it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tandem-test-", dir="/var/tmp"))
        self.directory.chmod(0o711)
        self.host = self.directory / "host"
        self.library = self.host / "library"
        self.key = self.directory / "library.key"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self.tandem("host", "init", "--approval-key", str(self.directory / "approval.key"))
        self._make_library()
        self.tandem("host", "up")

    def _make_library(self) -> None:
        (self.library / "keys").mkdir(parents=True)
        for name in ("vmlinuz", "initramfs.cpio"):
            shutil.copy(IMAGE / name, self.library)
        entry = f'kernel = "vmlinuz"\ninitrd = "initramfs.cpio"\ncommand_line = "{COMMAND_LINE}"\n'
        (self.library / "library.toml").write_text(
            f'[entries.web]\n{entry}\n[entries.brief]\nvtpm = "ephemeral"\n{entry}'
        )
        self.tandem("library", "keygen", "-o", str(self.key))
        shutil.copy(f"{self.key}.pub", self.library / "keys")
        self.tandem("library", "sign", "--key", str(self.key))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tandem", "--host", str(self.host), *arguments]

    def tandem(self, *arguments: str) -> str:
        """Run a command that must succeed, and give what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.tandem(*arguments, "--json"))

    def start(self, name: str = "web", *more: str) -> dict[str, Any]:
        [pair] = self.ask("guest", "start", name, *more)
        found: dict[str, Any] = pair
        return found

    def refusal(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must fail, and give its error."""
        done = self.run(*arguments, "--json")
        assert done.returncode != 0, done.stdout
        record: dict[str, Any] = json.loads(done.stderr)
        return record

    def pairs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("guest", "list")
        return found

    def services(self) -> dict[str, int]:
        found: dict[str, int] = self.ask("host", "status")["services"]
        return found

    def wait_until(self, condition: Callable[[], bool], seconds: float = GONE_SECONDS) -> float:
        """Wait for something that is due, and give how long it took."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < seconds, "waited in vain"
            time.sleep(0.002)
        return time.monotonic() - begun

    def stop_all(self) -> None:
        for pair in self.pairs():
            self.run("guest", "stop", pair["guest"], "--kill")

    def leftovers(self) -> list[str]:
        """Name what pairs left below the host directory; the vTPMs' states may stay."""
        places = (self.host / "run" / "pairs", self.host / "builder" / "pairs")
        return [str(path) for place in places for path in place.rglob("*")]

    def close(self) -> None:
        self.run("host", "down")
        shutil.rmtree(self.directory)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
