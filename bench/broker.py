"""The broker against tpm2-abrmd: one program, one mix of commands, each on a swtpm of its own.

Both are reached through the system's libtss2: the broker by `mssim:path=`, tpm2-abrmd by D-Bus.
tpm2-abrmd itself reaches its swtpm by `swtpm:path=`, the fastest way that it has; by TCP it needs a
third more.  Everything runs on one core, before whatever else the machine does: otherwise the
scheduler moves either side at will, and makes each process of the longer chain wait.

The mix is what hosts do with a TPM: random numbers, registers, a signature in an HMAC session, a
key loaded, used and flushed, a secret unsealed by a policy session, a hash sequence.  What the TPM
does for a command is the same on both sides, so `broker_rate` signs with HMAC keys;
`broker_rate_ecdsa` is the same mix with P-256 keys, whose signatures take swtpm 0.4 ms each.  Run
it by `python -m bench.broker`, as root.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.figures import Figure, in_turn, table
from bench.tss_client import ECDSA_KEY, HMAC_KEY, TssClient
from peers.abrmd import TCTI, abrmd
from tandem.cli.services import Service
from tandem.settings import HostPaths

KEYS: Final = {"broker_rate": HMAC_KEY, "broker_rate_ecdsa": ECDSA_KEY}
ROUNDS: Final = 60  # of the mix, in a sample
RUNS: Final = 15


def main() -> int:
    """Measure and print."""
    print(table(figures()))
    return 0


def figures() -> list[Figure]:
    """Measure on hosts of their own; nothing else has to run for it."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", dir="/var/tmp") as directory:
        work = Path(directory)
        work.chmod(0o711)
        peer = work / "abrmd"
        peer.mkdir()
        with _on_one_core(), _running_broker(work / "host") as options, abrmd(peer):
            return [_figure(name, key, options) for name, key in KEYS.items()]


def _figure(name: str, key: bytes, options: str) -> Figure:
    """Measure both with one kind of key."""
    with TssClient("mssim", options, key) as ours, TssClient(*TCTI, key) as theirs:
        ours.measure(ROUNDS)
        theirs.measure(ROUNDS)
        tandem, other = in_turn(lambda: ours.measure(ROUNDS), lambda: theirs.measure(ROUNDS), RUNS)
    return Figure(name=name, unit="us a command", peer_name="tpm2-abrmd", tandem=tandem, peer=other)


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on one core and before all others."""
    cores, policy, priority = (
        os.sched_getaffinity(0),
        os.sched_getscheduler(0),
        os.sched_getparam(0),
    )
    os.sched_setaffinity(0, {max(cores)})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def _running_broker(host: Path) -> Iterator[str]:
    """Make a host with an embedded pTPM, and run it; gives where its broker listens."""
    tandem = [sys.executable, "-m", "tandem", "--host", str(host)]
    init = [*tandem, "host", "init"]
    subprocess.run(init, cwd=host.parent, stdout=subprocess.DEVNULL, check=True)
    services = [Service(name=name, paths=HostPaths(host)) for name in ("manager", "broker")]
    with contextlib.ExitStack() as running:
        for service in services:
            service.start()
            running.callback(service.stop)
        yield f"path={HostPaths(host).broker_socket}"


if __name__ == "__main__":
    sys.exit(main())
