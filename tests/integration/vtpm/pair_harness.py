"""Real zygote, real vTPM, and a puppet in the hypervisor's place, for tests and benchmarks.

The puppet is a process that the zygote forked into the vTPM's PID namespace, as it does with QEMU;
it sends on the control channel what the test tells it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tandem import channel
from tandem.builder.door import knock, make_door
from tandem.channel import Channel
from tandem.evidence.event_log import write_launch_log
from tandem.evidence.launch import LaunchEvent, Tag
from tandem.wire.control import Command, Request
from tandem.wire.manager_rpc import OpenPair, PairOpened
from tandem.wire.messages import Message
from tandem.wire.zygote_rpc import (
    STATUS_REPORTS,
    STATUS_REQUESTS,
    ZYGOTE_ANSWERS,
    ZYGOTE_REQUESTS,
    GuestStarted,
    NewKeyChannel,
    Spawned,
    SpawnHypervisor,
    SpawnVtpm,
    VtpmEnded,
    VtpmReady,
)

SOURCES = Path(__file__).parents[3] / "src"
VTPM_UID, GUEST_UID = 0x54441000, 0x54441001
LAST_WORDS_SECONDS = 60.0
PYTHON = "/usr/bin/python3"
CONTROL_NUMBER, ORDERS_NUMBER = 10, 11
PUPPET = """
import socket, struct
control, orders = (socket.socket(fileno=number) for number in (10, 11))
while True:
    order, descriptors, _, _ = socket.recv_fds(orders, 65536, 4)
    if not order:
        break
    (size,) = struct.unpack_from(">H", order)
    answer = b""
    try:
        socket.send_fds(control, [order[2:]], descriptors)
        while len(answer) < size:
            more = control.recv(size - len(answer))
            if not more:
                break
            answer += more
    except OSError:
        pass
    orders.send(b"=" + answer)
"""
EVENTS = (
    LaunchEvent(tag=Tag.BUILDER, data=b'{"builder":"test"}'),
    LaunchEvent(tag=Tag.CONFIGURATION, data=b'{"machine":"q35"}'),
    LaunchEvent(tag=Tag.KERNEL, data=b'{"sha256":"00"}'),
    LaunchEvent(tag=Tag.COMMAND_LINE, data=b'{"command_line":"quiet"}'),
)
LAUNCH_LOG = write_launch_log(EVENTS)
SIZES = {Command.GET_CAPABILITY: 8, Command.GET_TPMESTABLISHED: 8, Command.SET_BUFFERSIZE: 16}
OpenPairWith = Callable[[OpenPair], tuple[PairOpened, socket.socket]]


def open_request(vtpm: str) -> OpenPair:
    """Give the request that a builder makes."""
    return OpenPair(
        guest="guest",
        vtpm=vtpm,
        group="default",
        ephemeral=False,
        launch_log_digest=bytes(32),
        hypervisor="qemu",
        builder="test",
        manifest_digest=bytes(32),
        manifest_version=1,
        library="main",
        signers=("a key",),
        successors=("a key",),
        threshold=1,
    )


class ZygoteUnderTest:
    """A zygote started as the builder starts it."""

    def __init__(self) -> None:
        ours, theirs = channel.pair()
        theirs.set_inheritable(True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tandem.vtpm", "--channel-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={"PYTHONPATH": str(SOURCES)},
        )
        theirs.close()
        self.channel = Channel(ours, sends=ZYGOTE_REQUESTS, receives=ZYGOTE_ANSWERS)

    def spawn(self, request: Message, descriptors: Sequence[int]) -> tuple[int, int]:
        """Ask for a process; give its pid and its pidfd."""
        self.channel.send(request, descriptors)
        answer, pidfds = self.channel.receive_any()
        spawned = channel.expect(answer, Spawned)
        return spawned.pid, pidfds[0]

    def close(self) -> None:
        """End the zygote as a builder's death does."""
        self.channel.close()
        self.process.wait(10)


class PairUnderTest:
    """One vTPM, and the puppet in its guest's place."""

    def __init__(
        self,
        zygote: ZygoteUnderTest,
        open_pair: OpenPairWith,
        directory: Path,
        *,
        vtpm: str = "vtpm",
        firmware: bool = True,
        strict: bool = False,
        launch_log: bytes = LAUNCH_LOG,
    ) -> None:
        self.zygote = zygote
        directory.mkdir(parents=True, exist_ok=True)
        opened, key_channel = open_pair(open_request(vtpm))
        self.pair_id = opened.pair_id
        self.control, vtpm_control = socket.socketpair()
        status, vtpm_status = channel.pair()
        self.status = Channel(status, sends=STATUS_REQUESTS, receives=STATUS_REPORTS)
        slots = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.doors = directory.parent / f"{directory.name}-door"  # the builder's, not the vTPM's
        self.doors.mkdir(mode=0o700, exist_ok=True)
        door = make_door(self.doors)
        handed = [key_channel.fileno(), vtpm_control.fileno(), vtpm_status.fileno(), slots, door]
        spawn = SpawnVtpm(
            pair_id=self.pair_id,
            launch_log=launch_log,
            firmware=firmware,
            strict=strict,
            uid=VTPM_UID,
        )
        self.pid, self.pidfd = zygote.spawn(spawn, handed)
        for each in (key_channel, vtpm_control, vtpm_status):
            each.close()
        os.close(slots)
        os.close(door)
        self.directory = directory  # of its state slots
        self.guest_pid, self.guest_pidfd = 0, -1
        self.data, self.vtpm_data = socket.socketpair()

    def ready(self) -> VtpmReady:
        """Wait until the vTPM waits for its guest."""
        message, _ = self.status.receive()
        return channel.expect(message, VtpmReady)

    def start_guest(self, *, name: bool = True) -> None:
        """Start the puppet; with `name`, tell the vTPM which process it is."""
        self.orders, theirs = channel.pair()
        self.spawn_hypervisor(
            (PYTHON, "-I", "-S", "-c", PUPPET),
            {CONTROL_NUMBER: self.control.fileno(), ORDERS_NUMBER: theirs.fileno()},
        )
        theirs.close()
        self.control.close()
        if name:
            self.name_guest()

    def spawn_hypervisor(self, argv: tuple[str, ...], numbered: dict[int, int]) -> None:
        """Have the zygote start `argv` beside the vTPM."""
        executable = os.open(argv[0], os.O_RDONLY)
        request = SpawnHypervisor(
            pair_id=self.pair_id, argv=argv, uid=GUEST_UID, groups=(), numbers=tuple(numbered)
        )
        handed = [executable, 2, 2, *numbered.values()]
        self.guest_pid, self.guest_pidfd = self.zygote.spawn(request, handed)
        os.close(executable)

    def name_guest(self) -> None:
        """Tell the vTPM which process its guest's is."""
        self.status.send(GuestStarted(), [self.guest_pidfd])

    def rejoin(self, nonce: bytes, key_channel: socket.socket) -> None:
        """Hand a new key channel over, as a builder does when the Manager was started again."""
        with key_channel:
            self.status.send(NewKeyChannel(nonce=nonce), [key_channel.fileno()])

    def meet_another_builder(self) -> None:
        """Lose the builder that started the pair, and find the next one at the door."""
        self.status.close()
        status = knock(self.doors)
        assert status is not None
        self.status = status

    def ask(self, command: Command, *fields: int, descriptors: Sequence[int] = ()) -> bytes:
        """Have the puppet send a control request; give the answer, short where it was cut off."""
        request = Request(command=command, fields=fields).encode()
        return self.ask_raw(request, SIZES.get(command, 4), descriptors)

    def wait_for_puppet(self) -> None:
        """Wait until the puppet listens; starting it is not the vTPM's time."""
        self.ask_raw(b"", 0)

    def ask_raw(self, data: bytes, size: int, descriptors: Sequence[int] = ()) -> bytes:
        """Have the puppet send bytes and wait for `size` others."""
        socket.send_fds(self.orders, [struct.pack(">H", size) + data], list(descriptors))
        return self.orders.recv(65536)[1:]

    def connect(self) -> None:
        """Do what QEMU does until its guest runs."""
        self.ask(Command.SET_DATAFD, descriptors=[self.vtpm_data.fileno()])
        self.vtpm_data.close()
        self.ask(Command.STOP)
        self.ask(Command.SET_BUFFERSIZE, 0xF80)
        self.ask(Command.INIT, 0)
        self.ask(Command.SET_LOCALITY, 0, 0, 0, 0)

    def execute(self, command: bytes) -> bytes:
        """Send a guest's TPM command; give the response, b"" where the vTPM hung up."""
        try:
            self.data.sendall(command)
            return self.data.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            return b""

    def ended(self) -> VtpmEnded:
        """Wait for the vTPM's last words; a vTPM that lives on is a failure, not a wait."""
        self.status.sock.settimeout(LAST_WORDS_SECONDS)
        while True:
            message, _ = self.status.receive()
            if isinstance(message, VtpmEnded):
                return message

    def kill_guest(self) -> None:
        """Kill the puppet, as a crash of QEMU does."""
        signal.pidfd_send_signal(self.guest_pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End whatever is left."""
        for pidfd in (self.pidfd, self.guest_pidfd):
            if pidfd >= 0 and not gone(pidfd, 0):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        gone(self.pidfd, 5)
        self.data.close()
        self.status.close()


def gone(pidfd: int, seconds: float) -> bool:
    """Wait until the process behind `pidfd` has ended; tell whether it has."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def started_pair(
    zygote: ZygoteUnderTest, open_pair: OpenPairWith, directory: Path, **options: object
) -> PairUnderTest:
    """Give a pair whose guest is about to start its TPM."""
    pair = PairUnderTest(zygote, open_pair, directory, **options)  # type: ignore[arg-type]
    pair.ready()
    pair.start_guest()
    pair.connect()
    return pair
