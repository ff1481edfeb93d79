"""Hosts on a pTPM that is slowed down at will, and Managers that serve them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from peers.faulty_tpm import FaultyTpm
from tandem.readiness import wait_until_ready
from tests.integration.manager.running_manager import RunningManager

READY_SECONDS: Final = 60.0


@contextmanager
def slow_host(directory: Path) -> Iterator[tuple[FaultyTpm, Path]]:
    """Make a host on a software pTPM; it is as fast as swtpm until `FaultyTpm.delay`."""
    directory.mkdir()
    directory.chmod(0o711)
    with FaultyTpm(directory / "tpm") as tpm:
        host = directory / "host"
        command = [sys.executable, "-m", "tandem", "--host", str(host), "host", "init"]
        command += ["--ptpm", tpm.ptpm, "--approval-key", str(directory / "approval.key")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield tpm, host


@contextmanager
def running_manager(host: Path, module: str = "tandem.manager") -> Iterator[RunningManager]:
    """Serve a host by a Manager, or by a peer of it."""
    ready, theirs = os.pipe()
    with (host / "bench-manager.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--host", str(host), "--ready-fd", str(theirs)],
            pass_fds=[theirs],
            stderr=log,
        )
    os.close(theirs)
    manager = RunningManager(host)
    try:
        if not wait_until_ready(ready, READY_SECONDS):
            raise RuntimeError(f"the Manager did not start, see {log.name}")
        yield manager
    finally:
        os.close(ready)
        manager.close()
        process.terminate()
        process.wait()
