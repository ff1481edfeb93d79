"""How much longer a guest boots with Tandem than the same QEMU with plain swtpm.

From the hypervisor's exec to the guest's first user-space program, as the serial console's log
shows it.  Same kernel, initrd, machine and QEMU options; the plain side has its vTPM behind a
socket path and no `-S`, for nobody measures or unpauses it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from bench.figures import Figure, in_turn
from peers import plain
from tandem.cli.builder_client import BuilderClient
from tandem.evidence.guest_entry import GuestEntry, UefiBoot
from tandem.evidence.launch_plan import machine_configuration
from tandem.evidence.manifest_file import ManifestFile
from tandem.hypervisor import qemu_args
from tandem.hypervisor.descriptors import Descriptors
from tandem.wire.builder_rpc import StartGuest, StopGuest

MARK: Final = b"tandem: user space"
ROMS: Final = Path("/usr/share/qemu")  # where QEMU itself looks for them
BOOT_SECONDS: Final = 240.0  # UEFI firmware takes its time without KVM


class TandemBoots:
    """Boots of one guest of a running host."""

    def __init__(self, host: Path, guest: str) -> None:
        self._host = host
        self._guest = guest
        self.builder_milliseconds: list[float] = []

    def sample(self) -> float:
        """Boot once; gives milliseconds, and keeps the builder's own time apart."""
        reached: dict[str, float] = {}

        def tell(step: str, _: int) -> None:
            reached[step] = time.monotonic()

        asked = time.monotonic()
        with BuilderClient(self._host) as builder:
            request = StartGuest(name=self._guest, entry=self._guest, manifest="", keys=())
            [pair] = builder.start(request, tell)
            log = self._host / "run" / "pairs" / pair["pair_id"] / "console.log"
            seen = wait_for_mark(log)
        with BuilderClient(self._host) as builder:
            builder.stop(StopGuest(name=self._guest, kill=True, seconds=0))
        self.builder_milliseconds.append(1000 * (reached["vtpm ready"] - asked))
        return 1000 * (seen - reached["hypervisor executed"])


class PlainBoots:
    """Boots of the same entry on swtpm and QEMU alone."""

    def __init__(self, entry: GuestEntry, files: Path, directory: Path) -> None:
        self._entry = entry
        self._files = files
        self._directory = directory

    def sample(self) -> float:
        """Boot once, on a vTPM that was made before and just started; gives milliseconds."""
        state, directory = self._directory / "state", self._directory / str(time.monotonic_ns())
        for each in (state, directory):
            each.mkdir(parents=True, exist_ok=True)
        with plain.swtpm(state) as control, Descriptors() as opened:
            arguments, numbers = self._arguments(opened, control, directory)
            executed = time.monotonic()
            process = subprocess.Popen(
                arguments, executable="/usr/bin/qemu-system-x86_64", pass_fds=numbers
            )
            try:
                return 1000 * (wait_for_mark(directory / "console.log") - executed)
            finally:
                process.kill()
                process.wait()

    def _arguments(
        self, opened: Descriptors, control: Path, directory: Path
    ) -> tuple[list[str], tuple[int, ...]]:
        at = opened.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        boot, store = self._entry.boot, None

        def number(file: ManifestFile | None) -> int | None:
            return None if file is None else opened.open(self._files / file.path, os.O_RDONLY)

        if isinstance(boot, UefiBoot):
            copy = shutil.copy(self._files / boot.variables.path, directory / "variables.fd")
            store = opened.open(Path(copy), os.O_RDWR)
        numbers = qemu_args.Numbers(
            firmware=opened.open(self._files / boot.firmware.path, os.O_RDONLY),
            kernel=number(boot.kernel),
            initrd=number(boot.initrd),
            variables=store,
            disks={},
            **{name: opened.listen(at, name) for name in ("qmp", "console", "attester")},
            debugger=None,
            console_log=opened.open("console.log", append, at=at),
            qmp_log=opened.open("qmp.log", append, at=at),
            rom_directory=opened.open(ROMS, os.O_RDONLY | os.O_DIRECTORY),
            vtpm_control=-1,
        )
        configuration = machine_configuration(self._entry, "tcg")
        arguments = qemu_args.arguments(configuration, self._entry.command_line, numbers)
        unpaused = [each for each in arguments if each != "-S"]
        by_path = f"socket,id=vtpm,path={control}"
        used = [each for each in vars_of(numbers) if each >= 0]
        return [by_path if each == "socket,id=vtpm,fd=-1" else each for each in unpaused], tuple(
            used
        )


def vars_of(numbers: qemu_args.Numbers) -> list[int]:
    """Give every descriptor number."""
    found = (getattr(numbers, name) for name in numbers.__dataclass_fields__)
    return [each for each in found if isinstance(each, int)]


def wait_for_mark(log: Path) -> float:
    """Wait until the guest says that it is in user space; gives when, on the monotonic clock."""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        if log.exists() and MARK in log.read_bytes():
            return time.monotonic()
        time.sleep(0.002)
    raise TimeoutError(f"no user space in {BOOT_SECONDS} s: {log}")


def figure(name: str, ours: TandemBoots, theirs: PlainBoots, runs: int) -> Figure:
    """Boot in turn, after one boot of each that is not counted."""
    ours.sample()
    theirs.sample()
    ours.builder_milliseconds.clear()
    tandem, peer = in_turn(ours.sample, theirs.sample, runs)
    return Figure(name=name, unit="ms", peer_name="swtpm + QEMU", tandem=tandem, peer=peer)
