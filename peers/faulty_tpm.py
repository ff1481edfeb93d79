"""A software TPM that is slow, busy, hung or reset on demand: swtpm behind a relay.

The relay is a process of its own.  It listens for raw TPM commands on a Unix stream socket, passes
them one after the other, whoever sends them, to a swtpm that nobody else reaches, and takes its
orders over a second socket, one JSON object a line.  `python -m peers.faulty_tpm DIR` runs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

HEADER_SIZE: Final = 10
RESPONSE_SIZE: Final = 4096
STARTUP_CLEAR: Final = bytes.fromhex("80010000000c000001440000")
MEASURED: Final = {8: b"kernel", 9: b"software"}  # what its "firmware" extends at each start
EVERY: Final = 0  # as a command code: each command
QUOTE: Final = 0x158  # TPM2_CC_Quote and others (TPM 2.0 Part 2, 6.5.2)
NV_EXTEND: Final = 0x136
CREATE_PRIMARY: Final = 0x131
LOAD: Final = 0x157
START_SECONDS: Final = 10.0
HUNG: Final = b""  # in the place of an answer


class Fault(StrEnum):
    """What the TPM does with a command instead of answering it."""

    RETRY = "retry"
    YIELDED = "yielded"
    TESTING = "testing"
    NV_RATE = "nv-rate"
    LOCKOUT = "lockout"
    HANG = "hang"  # never answers this command or a later one, until `release`
    CLOSE = "close"  # the device vanishes, until `release`
    RESET = "reset"  # a power cycle: started again and measured into, but all that was loaded gone
    POWER_CYCLE = "power-cycle"  # the same, and nobody starts it again
    TRUNCATE = "truncate"  # half a response, and then hangs
    GARBAGE = "garbage"


WARNINGS: Final = {
    Fault.RETRY: 0x922,
    Fault.YIELDED: 0x908,
    Fault.TESTING: 0x90A,
    Fault.NV_RATE: 0x920,
    Fault.LOCKOUT: 0x921,
}


class FaultyTpm:
    """The relay's owner: starts it, gives it orders, ends it.

    `delays` are seconds by command code, EVERY for those that are not named.  The state in
    `directory` is made where there is none, so a TPM can be ended and started again.
    """

    def __init__(self, directory: Path, delays: Mapping[int, float] | None = None) -> None:
        self.directory = directory.resolve()
        self.path = self.directory / "tpm.sock"
        self._delays = dict(delays or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> None:
        """Switch the TPM on: started, and PCR 8 and 9 extended once."""
        self.directory.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "peers.faulty_tpm", str(self.directory)]
        root = Path(__file__).parents[1]
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=root
            )
        self._control = ours
        self._tell("delays", delays={str(code): value for code, value in self._delays.items()})

    def end(self) -> None:
        """Switch it off, as power loss does."""
        if self._process is not None and self._control is not None:
            self._control.close()
            self._process.wait(START_SECONDS)
            self._process = None

    @property
    def ptpm(self) -> str:
        """What `tandem host init --ptpm` takes."""
        return f"simulator:{self.path}"

    def inject(
        self,
        fault: Fault,
        *,
        times: int = 1,
        code: int = EVERY,
        after: int = 0,
        executed: bool = False,
    ) -> None:
        """Have the next `times` commands (of that code, after the first `after`) meet a fault.

        `executed`: the TPM does the command first, and only its answer meets the fault.
        """
        self._tell("inject", fault=fault, times=times, code=code, after=after, executed=executed)

    def clear(self) -> None:
        """Forget the faults that no command has met."""
        self._tell("clear")

    def release(self) -> None:
        """End a hang or bring a vanished device back; whoever was connected is not any more."""
        self._tell("release")

    def reset(self, *, started: bool = True, measured: bool = True) -> None:
        """Power cycle the TPM now: as a reboot of the machine does, or a reset of the TPM alone."""
        self._tell("reset", started=started, measured=measured)

    def delay(self, delays: Mapping[int, float]) -> None:
        """Change the delays."""
        self._tell("delays", delays={str(code): seconds for code, seconds in delays.items()})

    def count(self) -> Counter[int]:
        """Give how many commands were passed to the TPM, by code."""
        counted = self._tell("count")["count"]
        return Counter({int(code): number for code, number in counted.items()})

    def met(self) -> int:
        """Give how many commands met a fault."""
        return int(self._tell("count")["met"])

    def transceive(self, command: bytes) -> bytes:
        """Send a raw command beside whoever else is connected."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(self.path))
            sock.sendall(command)
            return _read_whole(sock)

    def extend(self, register: int, data: bytes) -> None:
        """Measure something into a register: the host is in another state then."""
        response = self.transceive(_pcr_extend(register, data))
        if response[6:10] != bytes(4):
            raise ValueError(response.hex())

    def _tell(self, order: str, **fields: object) -> dict[str, Any]:
        if self._control is None:
            raise ValueError("it does not run")
        self._control.sendall(json.dumps({"order": order, **fields}).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            more = self._control.recv(65536)
            if not more:
                raise ConnectionResetError("the relay ended")
            answer += more
        record: dict[str, Any] = json.loads(answer)
        return record


@dataclass(kw_only=True)
class Injected:
    """A fault that waits for its commands."""

    fault: Fault
    times: int
    code: int
    after: int
    executed: bool

    def meets(self, code: int) -> bool:
        """Whether a command meets it, which counts it down."""
        if self.code not in (EVERY, code):
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


class Relay:
    """The process between whoever has a connection and swtpm; one thread, one command at a time."""

    def __init__(self, directory: Path, control: socket.socket) -> None:
        self._directory = directory
        self._control = control
        self._path = directory / "tpm.sock"
        self._delays: dict[int, float] = {}
        self._faults: list[Injected] = []
        self._count: Counter[int] = Counter()
        self._met = 0
        self._hangs = False
        self._clients: set[socket.socket] = set()
        self._orders = selectors.DefaultSelector()  # while a command waits, orders alone are heard
        self._orders.register(control, selectors.EVENT_READ, self._take_order)
        self._all = selectors.DefaultSelector()
        self._all.register(control, selectors.EVENT_READ, self._take_order)
        self._tpm, self._swtpm = _switch_on(directory)
        self._start(started=True, measured=True)
        self._listening = self._listen()

    def serve(self) -> None:
        """Serve until the owner closes the control socket."""
        try:
            while True:
                for key, _ in self._all.select():
                    if key.fileobj in self._all.get_map():  # not closed by an earlier one
                        key.data()
        except EOFError:
            _switch_off(self._tpm, self._swtpm)
            self._path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(self._path))
        listening.listen()
        self._all.register(listening, selectors.EVENT_READ, self._accept)
        return listening

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        self._clients.add(client)
        self._all.register(client, selectors.EVENT_READ, lambda: self._serve(client))

    def _serve(self, client: socket.socket) -> None:
        try:
            command = _read_whole(client)
            answer = self._answer(command)
            if answer == HUNG:
                return
            client.sendall(answer)
        except ConnectionError:
            self._hang_up(client)

    def _answer(self, command: bytes) -> bytes:
        code = int.from_bytes(command[6:10])
        if self._hangs:
            return HUNG
        fault = next((each for each in self._faults if each.times and each.meets(code)), None)
        if fault is None:
            return self._execute(command)
        self._met += 1
        response = self._execute(command) if fault.executed else bytes(HEADER_SIZE)
        return self._spoil(fault.fault, command, response)

    def _spoil(self, fault: Fault, command: bytes, response: bytes) -> bytes:
        """Do what a fault says; `response` is what the TPM answered, where it was asked at all."""
        match fault:
            case Fault.HANG:
                self._hangs = True
                return HUNG
            case Fault.CLOSE:
                self._vanish()
                raise ConnectionResetError
            case Fault.RESET:
                self._power_cycle(started=True, measured=True)
                return response if any(response) else self._execute(command)
            case Fault.POWER_CYCLE:
                self._power_cycle(started=False, measured=False)
                return response if any(response) else self._execute(command)
            case Fault.TRUNCATE:
                self._hangs = True
                return bytes.fromhex("800100000020000000000000")
            case Fault.GARBAGE:
                return b"\xff" + secrets.token_bytes(63)
            case warning:
                return bytes.fromhex("80010000000a") + WARNINGS[warning].to_bytes(4)

    def _execute(self, command: bytes) -> bytes:
        """Have the TPM do a command, after its delay."""
        code = int.from_bytes(command[6:10])
        self._attend(self._delays.get(code, self._delays.get(EVERY, 0.0)))
        self._count[code] += 1
        self._tpm.sendall(command)
        return _read_whole(self._tpm)

    def _attend(self, seconds: float) -> None:
        """Let time pass, and take orders meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._orders.select(left):
                key.data()

    def _take_order(self) -> None:
        line = b""
        while not line.endswith(b"\n"):
            more = self._control.recv(65536)
            if not more:
                raise EOFError
            line += more
        order = json.loads(line)
        answer = self._obey(order.pop("order"), order)
        self._control.sendall(json.dumps(answer or {}).encode() + b"\n")

    def _obey(self, order: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        orders: dict[str, Callable[..., dict[str, Any] | None]] = {
            "inject": lambda fault, **rest: self._faults.append(
                Injected(fault=Fault(fault), **rest)
            ),
            "clear": self._faults.clear,
            "release": self._release,
            "reset": self._power_cycle,
            "delays": self._set_delays,
            "count": lambda: {"count": self._count, "met": self._met},
        }
        return orders[order](**fields)

    def _set_delays(self, delays: dict[str, float]) -> None:
        self._delays = {int(code): seconds for code, seconds in delays.items()}

    def _vanish(self) -> None:
        self._all.unregister(self._listening)
        self._listening.close()
        self._path.unlink()
        for client in list(self._clients):
            self._hang_up(client)

    def _release(self) -> None:
        self._hangs = False
        for client in list(self._clients):
            self._hang_up(client)
        if self._listening.fileno() < 0:
            self._listening = self._listen()

    def _hang_up(self, client: socket.socket) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._all.unregister(client)
            client.close()

    def _power_cycle(self, *, started: bool, measured: bool) -> None:
        _switch_off(self._tpm, self._swtpm)
        self._tpm, self._swtpm = _switch_on(self._directory)
        self._start(started=started, measured=measured)

    def _start(self, *, started: bool, measured: bool) -> None:
        commands = [STARTUP_CLEAR] if started else []
        if measured:
            commands += [_pcr_extend(register, data) for register, data in MEASURED.items()]
        for command in commands:
            self._tpm.sendall(command)
            response = _read_whole(self._tpm)
            if response[6:10] != bytes(4):
                raise ValueError(response.hex())


def _switch_on(directory: Path) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    state = directory / "state"
    state.mkdir(exist_ok=True)
    command = ["swtpm", "socket", "--tpm2", "--fd", str(theirs.fileno()), "--terminate"]
    with theirs, (directory / "swtpm.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--tpmstate", f"dir={state}", "--flags", "not-need-init"],
            pass_fds=[theirs.fileno()],
            stdout=log,
            stderr=log,
        )
    return ours, process


def _switch_off(sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Cut the power: no TPM2_Shutdown, and what it did not write is lost."""
    process.kill()
    process.wait()
    sock.close()


def _pcr_extend(register: int, data: bytes) -> bytes:
    """Write TPM2_PCR_Extend of the SHA-256 and SHA-384 banks, empty password (Part 3, 22.2)."""
    password = bytes.fromhex("00000009" + "40000009" + "0000" + "00" + "0000")
    digests = b"".join(
        [
            (2).to_bytes(4),
            *(0x000B.to_bytes(2), hashlib.sha256(data).digest()),
            *(0x000C.to_bytes(2), hashlib.sha384(data).digest()),
        ]
    )
    body = register.to_bytes(4) + password + digests
    return bytes.fromhex("8002") + (10 + len(body)).to_bytes(4) + (0x182).to_bytes(4) + body


def _read_whole(sock: socket.socket) -> bytes:
    """Read one command or response."""
    data = b""
    while len(data) < HEADER_SIZE or len(data) < int.from_bytes(data[2:6]):
        more = sock.recv(RESPONSE_SIZE)
        if not more:
            raise ConnectionResetError
        data += more
    return data


def main() -> int:
    """Run the relay: `python -m peers.faulty_tpm DIR CONTROL_FD`."""
    directory, control = Path(sys.argv[1]), int(sys.argv[2])
    with suppress(KeyboardInterrupt):
        Relay(directory, socket.socket(fileno=control)).serve()
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PATH", os.defpath)
    sys.exit(main())
