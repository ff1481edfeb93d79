"""Tandem's vTPM and swtpm answer QEMU's own sequence alike, but where Tandem refuses on purpose."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command, Request
from tandem.wire.tpm_commands import StartupType
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import SIZES, PairUnderTest, ZygoteUnderTest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the zygote needs root")
Ask = Callable[..., bytes]


class Peer:
    """One implementation: its control channel by `ask`, its data channel by `execute`."""

    def __init__(self, ask: Ask, data: socket.socket) -> None:
        self.ask = ask
        self._data = data

    def execute(self, command: bytes) -> bytes:
        """Execute a TPM command."""
        self._data.sendall(command)
        return self._data.recv(4096)


@pytest.fixture
def tandem(tmp_path: Path) -> Iterator[Peer]:
    """Tandem's vTPM."""
    zygote = ZygoteUnderTest()
    pair = PairUnderTest(zygote, ManagerDouble().open_pair, tmp_path / "tandem")
    pair.ready()
    pair.start_guest()
    pair.ask(Command.SET_DATAFD, descriptors=[pair.vtpm_data.fileno()])
    yield Peer(pair.ask, pair.data)
    pair.close()
    zygote.close()


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Peer]:
    """The peer."""
    path = tmp_path / "ctrl"
    process = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--terminate",
         "--ctrl", f"type=unixio,path={path}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    control = socket.socket(socket.AF_UNIX)
    for _ in range(500):
        if control.connect_ex(str(path)) == 0:
            break
        time.sleep(0.01)
    data, theirs = socket.socketpair()

    def ask(command: Command, *fields: int) -> bytes:
        control.sendall(Request(command=command, fields=fields).encode())
        return control.recv(SIZES.get(command, 4))

    socket.send_fds(control, [Request(command=Command.SET_DATAFD).encode()], [theirs.fileno()])
    assert control.recv(4) == bytes(4)
    theirs.close()
    yield Peer(ask, data)
    data.close()
    control.close()
    process.wait(5)


def qemu_sequence(peer: Peer) -> list[bytes]:
    """Do what QEMU 7.2 does from its start to the guest's first commands; give the answers."""
    return [
        peer.execute(tpm.read_clock()),
        peer.ask(Command.STOP),
        peer.ask(Command.SET_BUFFERSIZE, 0),
        peer.ask(Command.STOP),
        peer.ask(Command.SET_BUFFERSIZE, 0xF80),
        peer.ask(Command.INIT, 0),
        peer.ask(Command.GET_TPMESTABLISHED),
        peer.ask(Command.SET_LOCALITY, 0, 0, 0, 0),
        peer.execute(tpm.pcr_read([0])),
        peer.execute(tpm.startup(StartupType.CLEAR)),
        peer.execute(tpm.startup(StartupType.CLEAR)),
        peer.execute(tpm.pcr_read([0]))[-32:],  # before it, a counter of all extends
        peer.execute(tpm.pcr_extend(0, {tpm.SHA256: bytes(32)})),
        peer.execute(tpm.command(0x7FFFFFF)),
    ]


def test_qemu_s_own_sequence_is_answered_as_swtpm_answers_it(tandem: Peer, swtpm: Peer) -> None:
    # Given both, with a data connection
    # When QEMU's sequence runs on each
    ours, theirs = qemu_sequence(tandem), qemu_sequence(swtpm)

    # Then every answer is the same, byte for byte
    assert ours == theirs


@pytest.mark.parametrize(
    ("command", "fields"),
    [(Command.SET_LOCALITY, (4, 0, 0, 0)), (Command.HASH_START, ()), (Command.STORE_VOLATILE, ())],
)
def test_what_swtpm_does_for_anyone_tandem_refuses(
    tandem: Peer, swtpm: Peer, command: Command, fields: tuple[int, ...]
) -> None:
    # Given both, running and started
    for peer in (tandem, swtpm):
        peer.ask(Command.INIT, 0)
        peer.execute(tpm.startup(StartupType.CLEAR))

    # When locality 4, a hash sequence or a copy of the volatile state is asked for
    # Then swtpm complies (the control), and Tandem does not
    assert swtpm.ask(command, *fields) == bytes(4)
    assert tandem.ask(command, *fields) != bytes(4)
