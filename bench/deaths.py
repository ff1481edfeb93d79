"""How soon the other half of a pair is gone: killed QEMUs and killed vTPMs, seen by pidfd.

Peers: swtpm with `--terminate` and QEMU, for a guest that dies.  For a vTPM that dies there is none
(a guest on plain swtpm runs on without a TPM), so that row stands beside the design's limit.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure, in_turn
from peers import plain
from tandem.cli.builder_client import BuilderClient
from tandem.hypervisor.process import start_time
from tandem.wire.builder_rpc import StartGuest

LIMIT_MS: Final = 50.0  # for the median
LONGEST_MS: Final = 1000.0  # for each single one (DESIGN, I4)
GONE_SECONDS: Final = 30.0


class Deaths:
    """Deaths of one guest of a running host, begun anew for each."""

    def __init__(self, host: Path, guest: str) -> None:
        self._host = host
        self._guest = guest

    def guest_first(self) -> float:
        """Kill QEMU; gives the milliseconds until the vTPM is gone."""
        pair = self._start()
        return milliseconds_between_deaths(pair["hypervisor_pid"], pair["vtpm_pid"])

    def vtpm_first(self) -> float:
        """Kill the vTPM; gives the milliseconds until QEMU is gone."""
        pair = self._start()
        return milliseconds_between_deaths(pair["vtpm_pid"], pair["hypervisor_pid"])

    def _start(self) -> dict[str, Any]:
        """Start the guest, once the builder has cleared the last pair away."""
        deadline = time.monotonic() + GONE_SECONDS
        while time.monotonic() < deadline:
            with BuilderClient(self._host) as builder:
                if not builder.guests():
                    request = StartGuest(name=self._guest, entry=self._guest, manifest="", keys=())
                    return builder.start(request, lambda _step, _microseconds: None)[0]
            time.sleep(0.01)
        raise TimeoutError(f"the last pair was not cleared away in {GONE_SECONDS} s")


class PlainDeaths:
    """Deaths of a QEMU beside `swtpm --terminate`; firmware alone, for only the end counts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def guest_first(self) -> float:
        """Kill QEMU; gives the milliseconds until swtpm is gone."""
        self._directory.mkdir(parents=True, exist_ok=True)
        control, qmp = self._directory / "ctrl.sock", self._directory / "qmp.sock"
        for each in (control, qmp):
            each.unlink(missing_ok=True)
        swtpm = [
            "swtpm",
            "socket",
            "--tpm2",
            "--terminate",
            "--ctrl",
            f"type=unixio,path={control}",
        ]
        vtpm = subprocess.Popen(
            [*swtpm, "--tpmstate", f"dir={self._directory}"], stderr=subprocess.DEVNULL
        )
        plain.wait_for_path(control)
        guest = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
                *("-machine", "q35,accel=tcg", "-qmp", f"unix:{qmp},server=on,wait=off"),
                *("-chardev", f"socket,id=tpm,path={control}"),
                *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"),
            ]
        )
        try:
            plain.wait_for_path(qmp)
            with socket.socket(socket.AF_UNIX) as monitor:
                monitor.connect(str(qmp))
                monitor.recv(4096)  # its greeting: the machine is there, and its TPM with it
            return milliseconds_between_deaths(guest.pid, vtpm.pid)
        finally:
            for process in (guest, vtpm):
                process.kill()
                process.wait()


def milliseconds_between_deaths(killed: int, follows: int) -> float:
    """Kill one process and wait for the other's end; both by pidfd, so never by a reused PID."""
    first, second = os.pidfd_open(killed), os.pidfd_open(follows)
    try:
        if start_time(killed) is None or start_time(follows) is None:
            raise ProcessLookupError(f"{killed} or {follows} is gone already")
        begun = time.monotonic()
        signal.pidfd_send_signal(first, signal.SIGKILL)
        if not select.select([second], [], [], GONE_SECONDS)[0]:
            raise TimeoutError(f"process {follows} outlived {killed} by {GONE_SECONDS} s")
        return 1000 * (time.monotonic() - begun)
    finally:
        os.close(first)
        os.close(second)


def figures(ours: Deaths, theirs: PlainDeaths, runs: int) -> list[Figure]:
    """Kill in turn; a single death over the design's limit ends the benchmark."""
    guest, swtpm = in_turn(ours.guest_first, theirs.guest_first, runs)
    vtpm = tuple(ours.vtpm_first() for _ in range(runs))
    worst = max(*guest, *vtpm)
    if worst > LONGEST_MS:
        raise AssertionError(f"a half outlived the other by {worst:.0f} ms")
    return [
        Figure(name="guest_death_to_vtpm_gone", unit="ms", peer_name="swtpm --terminate",
               tandem=guest, peer=swtpm),
        Figure(name="vtpm_death_to_guest_gone", unit="ms", peer_name="limit",
               tandem=vtpm, peer=(LIMIT_MS,)),
    ]  # fmt: skip
