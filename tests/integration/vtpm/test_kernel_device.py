"""A real vTPM behind a device of the kernel's; a socket that keeps message borders is the device.

The real one is in tests/e2e/test_host_vtpm.py: this machine's kernel need not have it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem import channel
from tandem.builder.door import make_door
from tandem.channel import Channel
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.vtpm.device import SET_LOCALITY
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Rc, StartupType, parse_response
from tandem.wire.zygote_rpc import (
    STATUS_REPORTS,
    STATUS_REQUESTS,
    EndVtpm,
    SpawnVtpm,
    VtpmEnded,
    VtpmNoted,
    VtpmReady,
)
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import (
    LAUNCH_LOG,
    VTPM_UID,
    ZygoteUnderTest,
    gone,
    open_request,
)

END_SECONDS = 10.0


class KernelDevice:
    """A vTPM with `device` set, and the kernel's end of that device."""

    def __init__(self, zygote: ZygoteUnderTest, manager: ManagerDouble, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        opened, key_channel = manager.open_pair(open_request("host"))
        self.kernel, device = channel.pair()
        self.kernel.settimeout(END_SECONDS)
        status, vtpm_status = channel.pair()
        self.status = Channel(status, sends=STATUS_REQUESTS, receives=STATUS_REPORTS)
        slots = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        spawn = SpawnVtpm(
            pair_id=opened.pair_id,
            launch_log=LAUNCH_LOG,
            firmware=False,
            uid=VTPM_UID,
            device=True,
        )
        door = make_door(directory)
        handed = [key_channel.fileno(), device.fileno(), vtpm_status.fileno(), slots, door]
        self.pid, self.pidfd = zygote.spawn(spawn, handed)
        for each in (key_channel, device, vtpm_status):
            each.close()
        os.close(slots)
        os.close(door)

    def run(self, command: bytes) -> bytes:
        """Send a command as the kernel does, and give the response."""
        self.kernel.send(command)
        return self.kernel.recv(4096)

    def code(self, command: bytes) -> int:
        return int.from_bytes(self.run(command)[6:10])

    def start(self) -> None:
        """Do what Linux does when it registers the device that the builder's journal names."""
        self.ready()
        self.status.send(VtpmNoted())
        assert self.code(locality_request(0)) == Rc.SUCCESS
        assert self.code(tpm.command(0x143, parameters=b"\0")) == Rc.INITIALIZE  # SelfTest
        assert self.code(tpm.startup(StartupType.CLEAR)) == Rc.SUCCESS
        assert self.code(tpm.command(0x143, parameters=b"\0")) == Rc.SUCCESS

    def ready(self) -> None:
        message, _ = self.status.receive()
        assert isinstance(message, VtpmReady)

    def register(self, index: int) -> bytes:
        return parse_response(self.run(tpm.pcr_read([index]))).parameters[-32:]

    def ended(self) -> VtpmEnded:
        message, _ = self.status.receive()
        assert isinstance(message, VtpmEnded)
        return message

    def close(self) -> None:
        """End whatever is left."""
        if not gone(self.pidfd, 0):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        gone(self.pidfd, END_SECONDS)
        self.kernel.close()
        self.status.close()


def locality_request(locality: int) -> bytes:
    return struct.pack(">HIIB", tpm.SESSIONS, 11, SET_LOCALITY, locality)


@pytest.fixture
def device(
    zygote: ZygoteUnderTest, manager: ManagerDouble, tmp_path: Path
) -> Iterator[KernelDevice]:
    made = KernelDevice(zygote, manager, tmp_path / "host")
    yield made
    made.close()


def test_the_kernels_own_start_carries_the_launch(device: KernelDevice) -> None:
    # Given a vTPM behind a device
    # When the kernel starts it
    device.start()
    # Then PCR 17 and 18 hold the launch, and platformAuth is nobody's
    expected = replay(parse_event_log(LAUNCH_LOG))["sha256"]
    assert (device.register(17), device.register(18)) == (expected[17], expected[18])
    assert device.code(tpm.hierarchy_change_auth(tpm.PLATFORM, b"mine")) == 0x9A2


def test_no_locality_of_the_kernels_reaches_the_launch_registers(device: KernelDevice) -> None:
    # Given a started vTPM
    device.start()
    before = device.register(17)
    # When the kernel asks for each locality, and extends PCR 17 from there
    answers = [
        (
            device.code(locality_request(locality)),
            device.code(tpm.pcr_extend(17, {tpm.SHA256: bytes(32)})),
        )
        for locality in range(5)
    ]
    # Then it gets 0 and 1 alone, and PCR 17 from neither
    assert answers == [(0, 0x907), (0, 0x907), *[(0x907, 0x907)] * 3]
    assert device.register(17) == before


def test_a_second_startup_starts_nothing_anew(device: KernelDevice) -> None:
    # Given a started vTPM with an extended PCR 10
    device.start()
    assert device.code(tpm.pcr_extend(10, {tpm.SHA256: b"\x01" * 32})) == 0
    before = device.register(10), device.register(17)
    # When Startup is sent again, of both kinds
    codes = [device.code(tpm.startup(kind)) for kind in StartupType]
    # Then the engine refuses, and nothing is taken back
    assert codes == [Rc.INITIALIZE, Rc.INITIALIZE]
    assert (device.register(10), device.register(17)) == before


def test_asked_to_end_it_ends_in_order(
    device: KernelDevice, zygote: ZygoteUnderTest, manager: ManagerDouble, tmp_path: Path
) -> None:
    # Given a started vTPM with an extended PCR 10
    device.start()
    assert device.code(tpm.pcr_extend(10, {tpm.SHA256: b"\x01" * 32})) == 0
    # When the builder asks for the end
    device.status.send(EndVtpm())
    ending = device.ended()
    # Then it ends, the device with it, and the next launch finds an orderly state and no register
    assert ending.code == "TDM-VTPM-END-ASKED"
    assert gone(device.pidfd, END_SECONDS)
    assert device.kernel.recv(1) == b""
    second = KernelDevice(zygote, manager, tmp_path / "host")
    second.start()
    assert second.register(10) == bytes(32)
    second.close()


def test_a_device_that_goes_takes_its_vtpm_with_it(device: KernelDevice) -> None:
    # Given a started vTPM
    device.start()
    # When the kernel gives the device up
    device.kernel.shutdown(socket.SHUT_RDWR)
    device.kernel.close()
    # Then the vTPM ends and says why
    assert device.ended().code == "TDM-VTPM-DEVICE-GONE"
    assert gone(device.pidfd, END_SECONDS)


def test_it_outlives_its_builder(device: KernelDevice) -> None:
    # Given a started vTPM
    device.start()
    # When its builder dies
    device.status.close()
    # Then it goes on answering
    assert device.code(tpm.read_clock()) == Rc.SUCCESS
    assert not gone(device.pidfd, 0.2)


def test_one_that_no_journal_names_ends_with_its_builder(
    zygote: ZygoteUnderTest, manager: ManagerDouble, tmp_path: Path
) -> None:
    # Given a vTPM that is ready, of which its builder has written nothing down
    device = KernelDevice(zygote, manager, tmp_path / "unnoted")
    device.ready()
    # When the builder dies
    device.status.close()
    # Then nothing is left that nobody would find
    assert gone(device.pidfd, 1.0)
    device.kernel.close()
