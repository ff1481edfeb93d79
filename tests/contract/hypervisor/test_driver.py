"""What every hypervisor driver owes the builder, on a real QEMU and on a machine of paper.

The real one runs SeaBIOS without a disk, and swtpm stands in for the vTPM; where QEMU or root is
missing only the other is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import HostError, Refused
from tandem.evidence.guest_entry import (
    DirectBoot,
    GuestEntry,
    Machine,
    PlatformAuth,
    UefiBoot,
)
from tandem.evidence.launch import Blob
from tandem.evidence.launch_plan import Accelerator, machine_configuration
from tandem.evidence.manifest_file import ManifestFile
from tandem.hypervisor.descriptors import connect
from tandem.hypervisor.driver import (
    End,
    Execution,
    Guest,
    Hypervisor,
    Identity,
    Inputs,
    Launcher,
    Plan,
)
from tandem.hypervisor.process import Process
from tandem.hypervisor.qemu import Qemu

FILE = ManifestFile(path="file", size=1, sha256=bytes(32), sha384=bytes(48))
ENTRY = GuestEntry(
    name="web",
    hypervisor="qemu",
    group="default",
    ephemeral=False,
    boot=DirectBoot(
        kernel=FILE,
        initrd=FILE,
        firmware=FILE,
        roms=(FILE, FILE),
        command_line="",
        platform_auth=PlatformAuth.FIRMWARE,
    ),
    disks=(),
    machine=Machine(type="q35", cpu="max", cpus=1, memory_mib=64),
)
ROMS = ("kvmvapic.bin", "linuxboot_dma.bin")
ROM_FOLDER = Path("/usr/share/qemu")
KERNEL = Path(__file__).parents[3] / ".cache" / "images" / "current" / "vmlinuz"  # of `make image`
SECONDS = 20.0
HIGH = 300  # above every descriptor number that a machine inherits


class PaperGuest:
    """A machine that is one sleeping process and two sockets."""

    def __init__(self, directory: Path, process: Process) -> None:
        self._directory = directory
        self._process = process
        self._connected: dict[str, socket.socket] = {}

    @property
    def process(self) -> Process:
        return self._process

    async def resume(self) -> None:
        if not self._process.alive:
            raise HostError("TDM-PAPER", "gone", hint="start another")

    async def pause(self) -> None:
        if not self._process.alive:
            raise HostError("TDM-PAPER", "gone", hint="start another")

    async def ask_to_stop(self) -> None:
        self._process.kill()

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> End:
        await self._process.wait()
        return End.GONE

    async def connect_console(self) -> socket.socket:
        return self._connect("console")

    async def connect_attester(self) -> socket.socket:
        return self._connect("attester")

    async def connect_debugger(self) -> socket.socket:
        raise Refused("TDM-GUEST-NO-DEBUGGER", "paper has none", hint="take another machine")

    async def close(self) -> None:
        for each in self._connected.values():
            each.close()

    def _connect(self, name: str) -> socket.socket:
        if name in self._connected:
            raise Refused("TDM-GUEST-PORT-BUSY", "taken", hint="wait")
        ours, theirs = socket.socketpair()
        self._connected[name] = ours
        return theirs


class PaperHypervisor:
    """A driver of paper machines."""

    def identify(self) -> Identity:
        blob = Blob(size=1, sha256=bytes(32), sha384=bytes(48))
        return Identity(name="paper", version="1", executable=Path("/bin/sleep"), blob=blob)

    def accelerator(self, cpu: str) -> Accelerator:
        return "tcg"

    def policy(self) -> bytes:
        return b"{}"

    def check(
        self, boot: DirectBoot | UefiBoot, rom_names: tuple[str, ...], inputs: Inputs
    ) -> None:
        if sorted(rom_names) != sorted(ROMS):
            raise Refused("TDM-PAPER-ROMS", "other ROMs", hint="name those")

    async def create_paused(self, plan: Plan, launch: Launcher) -> Guest:
        executable = os.open("/bin/sleep", os.O_RDONLY)
        output = os.open(os.devnull, os.O_WRONLY)
        try:
            execution = Execution(
                argv=("sleep", "60" if plan.command_line != "broken" else "broken"),
                executable=executable,
                output=output,
                groups=(),
                inherited={},
            )
            process = await launch(execution)
        finally:
            os.close(executable)
            os.close(output)
        await asyncio.sleep(0.1)
        if not process.alive:
            raise HostError("TDM-PAPER-FAILED", "it did not start", hint="mend it")
        return PaperGuest(plan.directory, process)

    async def adopt(self, directory: Path, process: Process) -> Guest:
        return PaperGuest(directory, process)

    def last_end(self, directory: Path) -> End:
        return End.GONE


class Bench:
    """Where machines of one driver are created; what it started is gone when it is left."""

    def __init__(self, hypervisor: Hypervisor, directory: Path) -> None:
        self.hypervisor = hypervisor
        self.directory = directory
        self._children: list[subprocess.Popen[bytes]] = []
        self._closing: list[int] = []

    async def launch(self, execution: Execution) -> Process:
        """Start a process as the zygote would, but beside this one and as this user."""
        moved = {
            number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH)
            for number, descriptor in execution.inherited.items()
        }
        script = "; ".join(f"exec {new}<&{old} {old}<&-" for new, old in moved.items())
        command = f'{script or ":"}; exec "$0" "$@"'
        executable = fcntl.fcntl(execution.executable, fcntl.F_DUPFD, HIGH)
        child = subprocess.Popen(
            ["/bin/bash", "-c", command, f"/proc/self/fd/{executable}", *execution.argv[1:]],
            stdout=execution.output,
            stderr=execution.output,
            pass_fds=[executable, *moved.values()],
        )
        for source in (executable, *moved.values()):
            os.close(source)
        self._children.append(child)
        return Process(child.pid, os.pidfd_open(child.pid))

    def plan(self, command_line: str = "") -> Plan:
        """Plan a machine with SeaBIOS, a kernel, and an initrd that is none."""
        return Plan(
            configuration=machine_configuration(ENTRY, "tcg"),
            command_line=command_line,
            hypervisor=self.hypervisor.identify().blob,
            inputs=Inputs(
                firmware=self._memory(Path("/usr/share/seabios/bios-256k.bin").read_bytes()),
                kernel=self._memory(KERNEL.read_bytes()),
                initrd=self._memory(b"x"),
                variables=None,
                disks={},
                roms={name: self._memory((ROM_FOLDER / name).read_bytes()) for name in ROMS},
            ),
            vtpm_control=self._vtpm(),
            directory=self.directory,
        )

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        for descriptor in self._closing:
            os.close(descriptor)

    def running(self) -> list[int]:
        return [child.pid for child in self._children if child.poll() is None]

    def _memory(self, content: bytes) -> int:
        descriptor = os.memfd_create("input")
        os.write(descriptor, content)
        self._closing.append(descriptor)
        return descriptor

    def _vtpm(self) -> int:
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(FileNotFoundError):
            state = self.directory / "swtpm"
            state.mkdir(exist_ok=True)
            control = f"type=unixio,clientfd={theirs.fileno()}"
            self._children.append(
                subprocess.Popen(
                    ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", control],
                    pass_fds=[theirs.fileno()],
                )
            )
        self._closing.append(ours.detach())
        return self._closing[-1]


@pytest.fixture(params=["paper", "qemu"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for each driver."""
    hypervisor: Hypervisor = PaperHypervisor() if request.param == "paper" else Qemu(65534)
    long_path = tmp_path / ("long-" * 20)  # longer than a socket's path may be
    long_path.mkdir()
    bench = Bench(hypervisor, long_path)
    yield bench
    bench.close()


@contextlib.asynccontextmanager
async def created(bench: Bench) -> AsyncIterator[Guest]:
    bench.hypervisor.identify()
    async with asyncio.timeout(SECONDS):
        guest = await bench.hypervisor.create_paused(bench.plan(), bench.launch)
        yield guest
        await guest.close()


def test_a_driver_names_what_it_would_start(bench: Bench) -> None:
    # Given a driver
    # When it is asked who it is
    identity = bench.hypervisor.identify()
    # Then it names a file that is there, and its digest
    assert identity.executable.exists()
    assert (len(identity.blob.sha256), len(identity.blob.sha384)) == (32, 48)


def test_a_created_machine_can_be_resumed_and_killed(bench: Bench) -> None:
    async def story() -> End:
        # Given a machine that was created
        async with created(bench) as guest:
            # When it is resumed twice and then killed twice
            await guest.resume()
            await guest.resume()
            guest.kill()
            guest.kill()
            return await guest.wait()

    # Then it is gone, and was not rebooting
    assert asyncio.run(story()) is End.GONE


def test_a_machine_that_is_gone_cannot_be_resumed(bench: Bench) -> None:
    async def story() -> None:
        # Given a machine that was killed
        async with created(bench) as guest:
            guest.kill()
            await guest.wait()
            # When it is resumed
            # Then the host says that it cannot be
            with pytest.raises(HostError):
                await guest.resume()

    asyncio.run(story())


def test_a_port_has_one_place(bench: Bench) -> None:
    async def story() -> None:
        # Given a console and an attester that somebody is connected to
        async with created(bench) as guest:
            with await guest.connect_console(), await guest.connect_attester():
                await asyncio.sleep(0.2)
                # When somebody else connects
                # Then each refuses
                for connect_again in (guest.connect_console, guest.connect_attester):
                    with pytest.raises(Refused) as refused:
                        await connect_again()
                    assert refused.value.code == "TDM-GUEST-PORT-BUSY"

    asyncio.run(story())


def test_a_machine_outlives_who_created_it_and_is_adopted(bench: Bench) -> None:
    async def story() -> End:
        # Given a machine whose builder let go of it
        async with created(bench) as first:
            process = first.process
        # When another adopts it
        second = await bench.hypervisor.adopt(bench.directory, process)
        await second.resume()
        second.kill()
        end = await second.wait()
        await second.close()
        return end

    # Then it can end it
    assert asyncio.run(story()) is End.GONE


def test_other_roms_than_those_that_load_are_refused(bench: Bench) -> None:
    # Given an entry that measures one ROM of two
    inputs = bench.plan().inputs
    # When its inputs are checked
    # Then the driver refuses, and takes both
    with pytest.raises(Refused):
        bench.hypervisor.check(ENTRY.boot, ROMS[:1], inputs)
    bench.hypervisor.check(ENTRY.boot, ROMS, inputs)


def test_another_hypervisor_than_the_measured_one_is_not_started(tmp_path: Path) -> None:
    async def story() -> None:
        # Given a launch that measured one QEMU, and another pair that examined a newer one since
        bench = Bench(Qemu(65534), tmp_path)
        measured = replace(
            bench.plan(), hypervisor=Blob(size=1, sha256=bytes(32), sha384=bytes(48))
        )
        # When the first launch's machine is created
        with contextlib.closing(bench), pytest.raises(Refused) as refused:
            await bench.hypervisor.create_paused(measured, bench.launch)
        # Then it is refused, though the file is the newest one examined
        assert refused.value.code == "TDM-QEMU-CHANGED"
        assert bench.running() == []

    asyncio.run(story())


def test_a_machine_that_does_not_start_leaves_no_process(bench: Bench) -> None:
    async def story() -> None:
        # Given a process that will not come up
        async def launch(execution: Execution) -> Process:
            argv = (execution.argv[0], "-no-such-option")
            broken = Execution(
                argv=argv,
                executable=execution.executable,
                output=execution.output,
                groups=(),
                inherited=execution.inherited,
            )
            return await bench.launch(broken)

        bench.hypervisor.identify()
        # When it is created
        with pytest.raises(HostError):
            await bench.hypervisor.create_paused(bench.plan(), launch)

    asyncio.run(story())
    # Then no process is left but the vTPM's stand-in
    assert len(bench.running()) <= 1


def test_sockets_work_below_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    # Given a directory whose path does not fit into sockaddr_un (108 bytes)
    directory = tmp_path / ("long-" * 30)
    directory.mkdir()
    at = os.open(directory, os.O_RDONLY)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"/proc/self/fd/{at}/a.sock")
    listening.listen()
    os.close(at)
    # When somebody connects by that path
    with connect(directory, "a.sock") as connection, listening:
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"here")
            # Then they are connected
            assert connection.recv(4) == b"here"
