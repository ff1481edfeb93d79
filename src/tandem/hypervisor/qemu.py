"""QEMU: created paused through the zygote, led over QMP (qemu.qmp), found again by its sockets.

The listening sockets are made here, in a directory of the builder alone, and inherited: QEMU, which
runs without privilege, can reach no path of Tandem.  It executes from the descriptor that was
hashed and loads kernel, initrd, firmware and option ROMs from the sealed memfds that were measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from qemu.qmp import ExecuteError, QMPClient, QMPError
from qemu.qmp.protocol import StateError

from tandem.errors import HostError, Refused
from tandem.evidence.guest_entry import DirectBoot, UefiBoot
from tandem.evidence.launch import Blob
from tandem.evidence.launch_plan import Accelerator, confinement
from tandem.hypervisor import accelerator, qemu_args
from tandem.hypervisor.descriptors import Descriptors, connect, file_identity
from tandem.hypervisor.driver import End, Execution, Identity, Inputs, Launcher, Plan
from tandem.hypervisor.kernel_check import HEAD_SIZE, check_kernel
from tandem.hypervisor.process import Process
from tandem.hypervisor.qemu_args import EXECUTABLE
from tandem.hypervisor.qemu_events import ENDS, MAX_LOG, end_of_event, end_of_log

MINIMUM: Final = (7, 2)
ANSWER_SECONDS: Final = 30.0
DRAIN_SECONDS: Final = 1.0
FIRST_NUMBER: Final = 10  # of the descriptors that QEMU inherits
QMP, CONSOLE, ATTESTER = "qmp.sock", "console.sock", "attester.sock"
DEBUGGER: Final = "debugger.sock"
CONSOLE_LOG, QMP_LOG, OUTPUT, ROMS = "console.log", "qmp.log", "hypervisor.log", "roms"


class Qemu:
    """The QEMU of this host."""

    def __init__(self, probe_uid: int, executable: Path = EXECUTABLE) -> None:
        self._executable = executable
        self._probe_uid = probe_uid
        self._identity: tuple[tuple[int, ...], Identity] | None = None
        self._accelerators: dict[tuple[bytes, str], Accelerator] = {}

    def identify(self) -> Identity:
        """Hash the executable and ask its version; both once for each file."""
        try:
            with Descriptors() as opened:
                descriptor = opened.open(self._executable, os.O_RDONLY)
                seen = file_identity(descriptor)
                if self._identity is None or self._identity[0] != seen:
                    self._identity = seen, self._examine(descriptor)
        except OSError as error:
            raise HostError(
                "TDM-QEMU-MISSING",
                f"cannot open {self._executable}: {error.strerror}",
                hint="apt-get install qemu-system-x86",
            ) from error
        return self._identity[1]

    def accelerator(self, cpu: str) -> Accelerator:
        """Try KVM with this CPU model, once for each executable."""
        key = self.identify().blob.sha256, cpu
        if key not in self._accelerators:
            self._accelerators[key] = accelerator.probe(self._executable, cpu, self._probe_uid)
        return self._accelerators[key]

    def policy(self) -> bytes:
        """Give the confinement that a machine runs under."""
        return confinement()

    def check(
        self, boot: DirectBoot | UefiBoot, rom_names: tuple[str, ...], inputs: Inputs
    ) -> None:
        """Refuse other ROMs than those that are loaded, and a kernel that needs others."""
        loaded = qemu_args.loaded_roms(kernel=boot.kernel is not None)
        if sorted(rom_names) != sorted(loaded):
            raise Refused(
                "TDM-QEMU-ROMS-DIFFER",
                f"the entry measures the ROMs {', '.join(rom_names) or 'none'}, but this machine "
                f"loads {', '.join(loaded)}",
                hint="leave `roms` out of the library's source: `tandem library sign` fills it in",
            )
        if inputs.kernel is not None:
            check_kernel(boot, os.pread(inputs.kernel, HEAD_SIZE, 0))

    async def create_paused(self, plan: Plan, launch: Launcher) -> QemuGuest:
        """Start QEMU with `-S`, and give it back once it answers."""
        with Descriptors() as opened:
            try:
                execution = self._execution(plan, opened)
            except OSError as error:
                raise HostError(
                    "TDM-PAIR-DIRECTORY",
                    f"cannot prepare {plan.directory}: {error.strerror}",
                    hint="free space or correct the host directory, then start again",
                ) from error
            process = await launch(execution)
        return await QemuGuest.take(plan.directory, process)

    async def adopt(self, directory: Path, process: Process) -> QemuGuest:
        """Connect to the machine's monitor again."""
        return await QemuGuest.take(directory, process)

    def last_end(self, directory: Path) -> End:
        """Read the end of the monitor's log."""
        try:
            with (directory / QMP_LOG).open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - MAX_LOG))
                return end_of_log(log.read(MAX_LOG))
        except OSError:
            return End.GONE  # it was never started, or its directory is gone

    def _examine(self, descriptor: int) -> Identity:
        digests = {name: hashlib.new(name) for name in ("sha256", "sha384")}
        while block := os.read(descriptor, 1 << 20):
            for digest in digests.values():
                digest.update(block)
        blob = Blob(
            size=os.fstat(descriptor).st_size,
            sha256=digests["sha256"].digest(),
            sha384=digests["sha384"].digest(),
        )
        version = _version(self._executable)
        return Identity(name="qemu", version=version, executable=self._executable, blob=blob)

    def _is_measured(self, executable: int, measured: Blob) -> bool:
        """Whether this file is the one that this launch measured, not one examined since."""
        if self._identity is None:
            return False
        seen, identity = self._identity
        return file_identity(executable) == seen and identity.blob == measured

    def _execution(self, plan: Plan, opened: Descriptors) -> Execution:
        """Make sockets and files of the pair, and lay out what QEMU inherits."""
        executable = opened.open(self._executable, os.O_RDONLY)
        if not self._is_measured(executable, plan.hypervisor):
            raise Refused(
                "TDM-QEMU-CHANGED",
                f"{self._executable} changed between its measurement and its start",
                hint="start the guest again",
            )
        directory = opened.open(plan.directory, os.O_RDONLY | os.O_DIRECTORY)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        given, numbering = plan.inputs, Numbering()
        roms = {name: numbering.inherit(rom) for name, rom in given.roms.items()}
        numbers = qemu_args.Numbers(
            firmware=numbering.inherit(given.firmware),
            kernel=numbering.inherit_any(given.kernel),
            initrd=numbering.inherit_any(given.initrd),
            variables=numbering.inherit_any(given.variables),
            rom_directory=numbering.inherit(_rom_directory(directory, roms, opened)),
            disks={name: numbering.inherit(disk) for name, disk in given.disks.items()},
            vtpm_control=numbering.inherit(plan.vtpm_control),
            qmp=numbering.inherit(opened.listen(directory, QMP)),
            console=numbering.inherit(opened.listen(directory, CONSOLE)),
            attester=numbering.inherit(opened.listen(directory, ATTESTER)),
            debugger=numbering.inherit(opened.listen(directory, DEBUGGER))
            if plan.configuration["debugger"]
            else None,
            console_log=numbering.inherit(opened.open(CONSOLE_LOG, append, at=directory)),
            qmp_log=numbering.inherit(opened.open(QMP_LOG, append, at=directory)),
        )
        return Execution(
            argv=qemu_args.arguments(plan.configuration, plan.command_line, numbers),
            executable=executable,
            output=opened.open(OUTPUT, append, at=directory),
            groups=_groups(plan.configuration),
            inherited=numbering.inherited,
        )


class Numbering:
    """Gives descriptors their numbers in QEMU's process."""

    def __init__(self) -> None:
        self.inherited: dict[int, int] = {}

    def inherit(self, descriptor: int) -> int:
        """Number a descriptor."""
        number = FIRST_NUMBER + len(self.inherited)
        self.inherited[number] = descriptor
        return number

    def inherit_any(self, descriptor: int | None) -> int | None:
        """Number a descriptor, where there is one."""
        return None if descriptor is None else self.inherit(descriptor)


class QemuGuest:
    """One QEMU with a QMP connection."""

    def __init__(self, directory: Path, process: Process, monitor: QMPClient) -> None:
        self._directory = directory
        self._process = process
        self._monitor = monitor
        self._end = End.GONE
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def take(cls, directory: Path, process: Process) -> QemuGuest:
        """Connect to the monitor; when that fails the process is killed and waited for."""
        monitor = QMPClient("qemu")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await monitor.connect(connect(directory, QMP))
        except (QMPError, OSError, TimeoutError) as error:
            process.kill()
            await process.wait()
            raise HostError(
                "TDM-QEMU-FAILED",
                f"QEMU ended before it answered: {_last_words(directory)}",
                hint="correct what QEMU says, then start the guest again",
            ) from error
        return cls(directory, process, monitor)

    @property
    def process(self) -> Process:
        """QEMU's process."""
        return self._process

    async def resume(self) -> None:
        """`cont`."""
        await self._execute("cont")

    async def pause(self) -> None:
        """`stop`."""
        await self._execute("stop")

    async def ask_to_stop(self) -> None:
        """`system_powerdown`."""
        await self._execute("system_powerdown")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def wait(self) -> End:
        """Wait for the process, then for the last event that it sent."""
        await self._process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.shield(self._listener)
        return self._end

    async def connect_console(self) -> socket.socket:
        """Connect to the serial console, which has one place."""
        return await self._connect("console", CONSOLE)

    async def connect_attester(self) -> socket.socket:
        """Connect to the attester's port, which has one place."""
        return await self._connect("attester", ATTESTER)

    async def connect_debugger(self) -> socket.socket:
        """Connect to the gdbstub, which has one place; it pauses the machine by itself."""
        if not (self._directory / DEBUGGER).exists():
            raise Refused(
                "TDM-GUEST-NO-DEBUGGER",
                "the guest was started without a debugger",
                hint="say `debugger = true` in its entry, sign it, and start it again: a verifier "
                "sees that, and refuses it unless its policy allows debuggers",
            )
        return await self._connect("debugger", DEBUGGER)

    async def close(self) -> None:
        """Leave the monitor; QEMU runs on."""
        with suppress(QMPError, OSError, EOFError):
            await self._monitor.disconnect()
        await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self) -> None:
        """Remember how the machine went, until the monitor closes."""
        with self._monitor.listener((*ENDS, "SHUTDOWN")) as events:
            waiting = asyncio.create_task(events.get())
            closed = asyncio.create_task(self._until_closed())
            while True:
                await asyncio.wait((waiting, closed), return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    return
                self._take(waiting.result())
                waiting = asyncio.create_task(events.get())

    def _take(self, event: Mapping[str, object]) -> None:
        """Take an event of QEMU; the first that says why the machine goes is the reason."""
        if self._end is not End.GONE:
            return
        self._end = end_of_event(event)
        if self._end is End.SLEPT:
            # `disable_s3` only hides S3 from the guest's tables: its root can still write the
            # register.  Waking up would reset the TPM under the guest, so the pair ends here.
            self.kill()

    async def _until_closed(self) -> None:
        while self._monitor.runstate.name == "RUNNING":
            await self._monitor.runstate_changed()

    async def _execute(self, command: str) -> object:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._monitor.execute(command)
        except (QMPError, StateError, TimeoutError) as error:
            reason = str(error) if isinstance(error, ExecuteError) else type(error).__name__
            raise HostError(
                "TDM-QEMU-MONITOR",
                f"QEMU did not carry out {command}: {reason}",
                hint="the guest is ending or hangs: see `tandem guest list`",
            ) from error

    async def _connect(self, label: str, name: str) -> socket.socket:
        """Connect to a character device that nobody is connected to."""
        devices = await self._execute("query-chardev")
        for device in devices if isinstance(devices, list) else []:
            if device["label"] == label and not device["filename"].startswith("disconnected:"):
                raise Refused(
                    "TDM-GUEST-PORT-BUSY",
                    f"somebody is connected to the guest's {label} already",
                    hint="end the other `tandem guest console` or `attest` first",
                )
        try:
            return connect(self._directory, name)
        except OSError as error:
            raise HostError(
                "TDM-GUEST-ENDED",
                f"the guest's {label} is gone: {error.strerror}",
                hint="start the guest again",
            ) from error


def _rom_directory(pair: int, roms: Mapping[str, int], opened: Descriptors) -> int:
    """Make the directory QEMU finds ROMs in: each name leads to a descriptor of QEMU's own."""
    os.mkdir(ROMS, 0o755, dir_fd=pair)
    directory = opened.open(ROMS, os.O_RDONLY | os.O_DIRECTORY, at=pair)
    os.fchmod(directory, 0o755)
    for name, number in roms.items():
        os.symlink(f"/proc/self/fd/{number}", name, dir_fd=directory)
    return directory


def _groups(configuration: Mapping[str, object]) -> tuple[int, ...]:
    if configuration["accelerator"] != "kvm":
        return ()
    return accelerator.device_groups() or ()


def _version(executable: Path) -> str:
    command = [str(executable), "--version"]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (no shell)
    words = done.stdout.decode("ascii", "replace").split()
    version = words[words.index("version") + 1] if "version" in words[:-1] else ""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < MINIMUM:
        raise HostError(
            "TDM-QEMU-OLD",
            f"{executable} is QEMU {version or 'of no known version'}, older than 7.2",
            hint="install QEMU 7.2 or later",
        )
    return version


def _last_words(directory: Path) -> str:
    """Give the last line that QEMU printed, safe for a message."""
    path = directory / OUTPUT
    lines = path.read_bytes()[-4096:].splitlines() if path.exists() else []
    return ascii(lines[-1].decode("utf-8", "replace")[-300:]) if lines else "it printed nothing"
