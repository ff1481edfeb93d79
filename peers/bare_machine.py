"""A real QEMU without an operating system: what its guest would do is done through its registers.

Firmware runs, and a kernel where one is given; then TPM commands, ports and memory are the guest's
own, reached over qtest, and the monitor (QMP) is the host's.  A machine is ready in a second, where
a Linux under TCG takes ten.  The same class drives QEMU beside swtpm and beside a Tandem vTPM.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

QEMU: Final = "/usr/bin/qemu-system-x86_64"
FIRMWARE_SECONDS: Final = 60.0
NOTHING_TO_BOOT: Final = b"No bootable device"
SERIAL: Final = 0x3F8  # COM1
CRB: Final = 0xFED40000  # PC Client PTP, 6.5.3: registers of locality 0
CRB_LOCALITY, CRB_REQUEST, CRB_START, CRB_BUFFER = 0x08, 0x40, 0x4C, 0x80
TIS: Final = 0xFED40000  # PTP, 6.5.2: one page of registers for each locality
TIS_PAGE: Final = 0x1000
TIS_ACCESS, TIS_STATUS, TIS_FIFO = 0x00, 0x18, 0x24
TIS_REQUEST_USE, TIS_ACTIVE, TIS_READY, TIS_GO, TIS_DATA = 0x02, 0x20, 0x40, 0x20, 0x10
Spawn = Callable[[tuple[str, ...], Mapping[int, int]], None]
Model = Literal["tpm-crb", "tpm-tis"]


class BareMachine:
    """A QEMU that was started with the arguments of `command`; give it its wires and `begin`."""

    def __init__(self, model: Model = "tpm-crb") -> None:
        self._model = model
        self._qtest, qtest = socket.socketpair()
        self._qmp, qmp = socket.socketpair()
        self._debug, debug = socket.socketpair()
        self._theirs = {"qtest": qtest, "qmp": qmp, "debug": debug}
        self._said = b""
        self.events: list[dict[str, Any]] = []

    def wires(self) -> dict[str, int]:
        """Give the descriptors that QEMU must inherit, by name."""
        return {name: sock.fileno() for name, sock in self._theirs.items()}

    def command(self, numbers: Mapping[str, int], more: Sequence[str]) -> tuple[str, ...]:
        """Give QEMU's arguments; `numbers` are those of the wires in its process."""
        return (
            *(QEMU, "-machine", "q35", "-accel", "tcg", "-m", "64", "-S", "-nodefaults"),
            *("-no-user-config", "-display", "none"),
            *("-chardev", f"socket,id=qtest,fd={numbers['qtest']}", "-qtest", "chardev:qtest"),
            *("-qtest-log", "none"),
            *("-chardev", f"socket,id=d,fd={numbers['debug']}"),
            *("-device", "isa-debugcon,iobase=0x402,chardev=d"),
            *("-chardev", f"socket,id=m,fd={numbers['qmp']}", "-mon", "chardev=m,mode=control"),
            *more,
        )

    def begin(self) -> None:
        """Take the wires into use, once QEMU has them."""
        for sock in self._theirs.values():
            sock.close()
        self._lines = self._qtest.makefile("rw")
        self._monitor = self._qmp.makefile("rw")
        self._monitor.readline()
        self.qmp("qmp_capabilities")

    def close(self) -> None:
        """Leave QEMU."""
        for sock in (self._qtest, self._qmp, self._debug):
            sock.close()

    def qmp(self, command: str, **arguments: object) -> dict[str, Any]:
        """Execute a monitor command; give its answer, empty where QEMU ended before it."""
        request = {"execute": command, "arguments": arguments}
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._monitor.write(json.dumps(request) + "\n")
            self._monitor.flush()
            while line := self._monitor.readline():
                answer: dict[str, Any] = json.loads(line)
                if not answer.keys().isdisjoint({"return", "error"}):
                    return answer
                self.events.append(answer)
        return {}

    def wait_for_status(self, status: str, seconds: float = 10.0) -> None:
        """Wait until the machine is `running`, `suspended`, `postmigrate` and so on."""
        deadline = time.monotonic() + seconds
        while (now := self.qmp("query-status")["return"]["status"]) != status:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the machine is {now}, not {status}")
            time.sleep(0.01)

    def run_until(self, text: bytes = NOTHING_TO_BOOT) -> None:
        """Let the guest run until firmware or kernel has written `text`, then halt it."""
        self.qmp("cont")
        self.wait_until_said(text)
        self.qmp("stop")

    def wait_until_said(self, text: bytes) -> None:
        """Wait for a text on the debug console; what came before it is forgotten."""
        self._debug.settimeout(FIRMWARE_SECONDS)
        while text not in self._said:
            try:
                more = self._debug.recv(4096)
            except TimeoutError:
                raise TimeoutError(f"no {text!r}: {self._said[-300:]!r}") from None
            if not more:
                raise ConnectionResetError(f"the machine is gone: {self._said[-300:]!r}")
            self._said += more
        self._said = self._said.rpartition(text)[2]

    def transceive(self, command: bytes) -> bytes:
        """Execute a TPM command through the guest's registers, at locality 0."""
        return self._by_crb(command) if self._model == "tpm-crb" else self.at_locality(0, command)

    def at_locality(self, locality: int, command: bytes) -> bytes:
        """Execute a TPM command through the TIS page of a locality, as a guest's kernel can.

        Gives b"" where the device does not let the guest have that locality.
        """
        page = TIS + locality * TIS_PAGE
        self._write_byte(page + TIS_ACCESS, TIS_REQUEST_USE)
        if not self._read_byte(page + TIS_ACCESS) & TIS_ACTIVE:
            return b""
        for _ in range(2):  # from idle to ready, and then with an empty buffer
            self._write_byte(page + TIS_STATUS, TIS_READY)
        for byte in command:
            self._write_byte(page + TIS_FIFO, byte)
        self._write_byte(page + TIS_STATUS, TIS_GO)
        self._wait(lambda: self._read_byte(page + TIS_STATUS) & TIS_DATA != 0)
        header = bytes(self._read_byte(page + TIS_FIFO) for _ in range(10))
        rest = int.from_bytes(header[2:6]) - len(header)
        answer = header + bytes(self._read_byte(page + TIS_FIFO) for _ in range(rest))
        self._write_byte(page + TIS_ACCESS, TIS_ACTIVE)  # relinquish
        return answer

    def give_the_tpm_up(self) -> None:
        """End the session with the TPM (CRB: relinquish the locality), as a boot loader does."""
        self._ask(f"writel {CRB + CRB_LOCALITY:#x} 2")

    def out(self, port: int, value: int, width: str = "b") -> None:
        """Write to a port, as the guest's kernel does; `width` is b, w or l."""
        self._ask(f"out{width} {port:#x} {value:#x}")

    def put(self, address: int, data: bytes) -> None:
        """Write to the guest's memory."""
        self._ask(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def over_serial(self, command: bytes) -> bytes:
        """Send a TPM command over COM1, to whatever listens there, and read the response."""
        for byte in command:
            self.out(SERIAL, byte)
        answer = b""
        while len(answer) < 10 or len(answer) < int.from_bytes(answer[2:6]):
            self._wait(lambda: int(self._ask(f"inb {SERIAL + 5:#x}"), 16) & 1 == 1)
            answer += bytes([int(self._ask(f"inb {SERIAL:#x}"), 16)])
        return answer

    def _by_crb(self, command: bytes) -> bytes:
        self._ask(f"writel {CRB + CRB_LOCALITY:#x} 1")
        self._ask(f"writel {CRB + CRB_REQUEST:#x} 1")
        self._ask(f"write {CRB + CRB_BUFFER:#x} {len(command):#x} 0x{command.hex()}")
        self._ask(f"writel {CRB + CRB_START:#x} 1")
        self._wait(lambda: int(self._ask(f"readl {CRB + CRB_START:#x}"), 16) == 0)
        header = self._ask(f"read {CRB + CRB_BUFFER:#x} 0x6")
        size = int(header[2:][4:], 16)
        return bytes.fromhex(self._ask(f"read {CRB + CRB_BUFFER:#x} {size:#x}")[2:])

    def _wait(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("the device does not answer")
            time.sleep(0.001)

    def _write_byte(self, address: int, value: int) -> None:
        self._ask(f"writeb {address:#x} {value:#x}")

    def _read_byte(self, address: int) -> int:
        return int(self._ask(f"readb {address:#x}"), 16)

    def _ask(self, line: str) -> str:
        self._lines.write(line + "\n")
        self._lines.flush()
        answer = self._lines.readline().split()
        if not answer or answer[0] != "OK":
            raise ConnectionResetError(f"qtest: {line} -> {answer}")
        return answer[-1]


@dataclass(frozen=True, kw_only=True)
class PlainMachine:
    """A bare machine beside swtpm, and its process."""

    machine: BareMachine
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def plain_machine(
    control: Path | None, *more: str, model: Model = "tpm-crb"
) -> Iterator[PlainMachine]:
    """Run QEMU on the vTPM behind `control` (None: without one), and kill it at the end."""
    machine = BareMachine(model)
    wires = machine.wires()
    tpm = tpm_arguments(f"path={control}", model) if control else ()
    process = subprocess.Popen(machine.command(wires, (*tpm, *more)), pass_fds=list(wires.values()))
    try:
        machine.begin()
        yield PlainMachine(machine=machine, process=process)
    finally:
        process.kill()
        process.wait()
        machine.close()


def tpm_arguments(channel: str, model: Model = "tpm-crb") -> tuple[str, ...]:
    """Give QEMU's arguments for a TPM behind swtpm's control channel (`path=...` or `fd=...`)."""
    return (
        *("-chardev", f"socket,id=tpm,{channel}", "-tpmdev", "emulator,id=t,chardev=tpm"),
        *("-device", f"{model},tpmdev=t"),
    )
