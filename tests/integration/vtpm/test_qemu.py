"""An unmodified QEMU accepts the vTPM, and its firmware finds the launch measured already."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable

from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.wire import tpm_commands as tpm
from tests.integration.vtpm.pair_harness import EVENTS, LAUNCH_LOG, PairUnderTest, gone

QEMU = "/usr/bin/qemu-system-x86_64"
CONTROL, QTEST, QMP, DEBUG = 10, 11, 12, 13
CRB = 0xFED40000  # PC Client PTP, 6.5.3: registers of locality 0
LOCALITY_CONTROL, REQUEST, START, BUFFER = 0x08, 0x40, 0x4C, 0x80


class Machine:
    """A QEMU beside the vTPM, driven over QMP and, for its TPM registers, qtest."""

    def __init__(self, pair: PairUnderTest, model: str = "tpm-crb") -> None:
        qtest, theirs_qtest = socket.socketpair()
        qmp, theirs_qmp = socket.socketpair()
        self._debug, theirs_debug = socket.socketpair()
        argv = (
            QEMU, "-machine", "q35", "-accel", "tcg", "-m", "64", "-S", "-nodefaults",
            "-no-user-config", "-display", "none", "-action", "reboot=shutdown",
            "-chardev", f"socket,id=c,fd={CONTROL}", "-tpmdev", "emulator,id=t,chardev=c",
            "-device", f"{model},tpmdev=t",
            "-chardev", f"socket,id=qtest,fd={QTEST}", "-qtest", "chardev:qtest",
            "-qtest-log", "none",
            "-chardev", f"socket,id=d,fd={DEBUG}", "-device", "isa-debugcon,iobase=0x402,chardev=d",
            "-chardev", f"socket,id=m,fd={QMP}", "-mon", "chardev=m,mode=control",
        )  # fmt: skip
        pair.spawn_hypervisor(
            argv,
            {
                CONTROL: pair.control.fileno(),
                QTEST: theirs_qtest.fileno(),
                QMP: theirs_qmp.fileno(),
                DEBUG: theirs_debug.fileno(),
            },
        )
        for each in (pair.control, theirs_qtest, theirs_qmp, theirs_debug):
            each.close()
        pair.name_guest()
        self._qtest = qtest.makefile("rw")
        self._qmp = qmp.makefile("rw")
        self._qmp.readline()
        self.qmp("qmp_capabilities")

    def qmp(self, command: str) -> None:
        """Execute a QMP command; QEMU may end before it answers."""
        self._qmp.write(json.dumps({"execute": command}) + "\n")
        self._qmp.flush()
        with contextlib.suppress(ConnectionResetError):
            while (line := self._qmp.readline()) and not self._is_answer(line):
                pass

    @staticmethod
    def _is_answer(line: str) -> bool:
        return not json.loads(line).keys().isdisjoint({"return", "error"})

    def run_firmware(self) -> None:
        """Let the guest run until SeaBIOS has found nothing to boot, done with its TPM."""
        self.qmp("cont")
        self._debug.settimeout(30)
        said = b""
        while b"No bootable device" not in said:
            said += self._debug.recv(4096)
        self.qmp("stop")

    def execute(self, command: bytes) -> bytes:
        """Execute a TPM command through the registers that a guest uses."""
        self._write(LOCALITY_CONTROL, 1)
        self._write(REQUEST, 1)
        self._ask(f"write {CRB + BUFFER:#x} {len(command):#x} 0x{command.hex()}")
        self._write(START, 1)
        for _ in range(1000):
            if int(self._ask(f"readl {CRB + START:#x}"), 16) == 0:
                break
            time.sleep(0.002)
        size = int(self._ask(f"read {CRB + BUFFER:#x} 0x6")[2:][4:], 16)
        return bytes.fromhex(self._ask(f"read {CRB + BUFFER:#x} {size:#x}")[2:])

    def register(self, number: int) -> bytes:
        """Read a PCR of the SHA-256 bank."""
        return self.execute(tpm.pcr_read([number]))[-32:]

    def _write(self, offset: int, value: int) -> None:
        self._ask(f"writel {CRB + offset:#x} {value:#x}")

    def _ask(self, line: str) -> str:
        self._qtest.write(line + "\n")
        self._qtest.flush()
        answer = self._qtest.readline().split()
        assert answer[0] == "OK", answer
        return answer[-1]


def test_firmware_of_an_unmodified_qemu_starts_the_tpm_and_the_launch_is_measured(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a vTPM that waits, and a QEMU with SeaBIOS beside it
    pair = make_pair()
    pair.ready()
    machine = Machine(pair)

    # When the guest runs and its firmware has used the TPM
    machine.run_firmware()

    # Then SeaBIOS measured, and PCR 17 and 18 are what the launch log explains
    expected = replay(parse_event_log(LAUNCH_LOG))["sha256"]
    assert machine.register(0) != bytes(32)
    assert machine.register(17) == expected[17]
    assert machine.register(18) == expected[18]
    assert {event.register for event in EVENTS} == {17, 18}


def test_qemu_that_quits_takes_its_vtpm_along(make_pair: Callable[..., PairUnderTest]) -> None:
    # Given a running QEMU
    pair = make_pair()
    pair.ready()
    machine = Machine(pair)

    # When it quits
    machine.qmp("quit")

    # Then the vTPM is gone within a second
    assert gone(pair.pidfd, 1.0)


def test_a_reset_of_the_machine_under_a_live_guest_ends_the_pair(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a guest whose firmware has started the TPM
    pair = make_pair()
    pair.ready()
    machine = Machine(pair)
    machine.run_firmware()

    # When the machine is reset, which makes QEMU initialize the TPM again
    machine.qmp("system_reset")

    # Then both halves end
    assert gone(pair.pidfd, 2.0)
    assert gone(pair.guest_pidfd, 2.0)
