"""A device of the kernel's: whole commands in, whole responses out, localities 0 and 1."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tandem import channel
from tandem.channel import Channel
from tandem.vtpm.builder_line import BuilderLine
from tandem.vtpm.device import DEVICE_GONE, SET_LOCALITY, Device, DeviceServer, wait_for_end
from tandem.vtpm.key_channels import KeyChannels
from tandem.vtpm.server import BUILDER_GONE, END_ASKED
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Rc
from tandem.wire.zygote_rpc import STATUS_REPORTS, STATUS_REQUESTS, EndVtpm, VtpmNoted

COMMAND = tpm.read_clock()
ANSWER = tpm.response(Rc.SUCCESS, b"time")


def made() -> tuple[Device, socket.socket]:
    ours, theirs = channel.pair()
    return Device(theirs.detach()), ours


def server(saved: list[str] | None = None) -> tuple[DeviceServer, Any]:
    engine = SimpleNamespace(locality=0, changed=False, answer=lambda command: ANSWER)
    log = [] if saved is None else saved

    def save() -> None:
        engine.changed = False
        log.append("saved")

    return DeviceServer(engine, {}, save), engine  # type: ignore[arg-type]


def locality_request(locality: int, tag: int = tpm.SESSIONS) -> bytes:
    """As vtpm_proxy_request_locality of Linux sends it."""
    return struct.pack(">HIIB", tag, 11, SET_LOCALITY, locality)


@pytest.mark.parametrize(("locality", "code"), [(0, 0), (1, 0), (2, 0x907), (3, 0x907), (4, 0x907)])
def test_localities_above_1_are_refused(locality: int, code: int) -> None:
    # Given a device
    serving, engine = server()
    # When the kernel sets a locality
    answer = serving.answer(locality_request(locality))
    # Then 0 and 1 are set, and the others get TPM_RC_LOCALITY and change nothing
    assert int.from_bytes(answer[6:10]) == code
    assert engine.locality == (locality if code == 0 else 0)


@pytest.mark.parametrize(
    "command",
    [b"", b"\x80\x01", COMMAND + b"more", COMMAND[:-1], locality_request(1)[:-1], bytes(10)],
)
def test_a_command_of_a_wrong_size_gets_that_answer(command: bytes) -> None:
    # Given a device
    serving, engine = server()
    # When a command comes whose size is not what it says, or not what it must be
    answer = serving.answer(command)
    # Then it gets TPM_RC_COMMAND_SIZE, and the engine sees nothing of it
    assert int.from_bytes(answer[6:10]) == Rc.COMMAND_SIZE
    assert engine.locality == 0


def test_what_a_command_changes_is_saved_before_it_is_answered() -> None:
    # Given an engine that stores a new state with the command
    saved: list[str] = []
    serving, engine = server(saved)

    def change(command: bytes) -> bytes:
        engine.changed = True
        return ANSWER

    engine.answer = change
    # When the command is answered
    answer = serving.answer(COMMAND)
    # Then it was saved by then
    assert (answer, saved) == (ANSWER, ["saved"])


def test_commands_are_answered_until_the_device_is_given_up() -> None:
    # Given a device with two commands under way
    device, kernel = made()
    with kernel:
        kernel.send(COMMAND)
        assert device.receive() == COMMAND
        device.send(ANSWER)
        assert kernel.recv(4096) == ANSWER
        # When the vTPM is to end
        device.stop()
        # Then there is no next command, though one waits
        kernel.send(COMMAND)
        assert device.receive() is None


def test_a_device_that_the_kernel_gave_up_has_no_next_command() -> None:
    # Given a device
    device, kernel = made()
    # When the kernel gives it up, before and after an answer
    kernel.close()
    device.send(ANSWER)
    # Then that is the end, and no error
    assert device.receive() is None


@pytest.mark.parametrize("asked", [True, False])
def test_the_end_is_what_came_first(asked: bool) -> None:
    # Given a vTPM whose builder asks for the end, or whose device goes
    ours, theirs = channel.pair()
    ended = os.eventfd(0)
    builder = Channel(theirs, sends=STATUS_REQUESTS, receives=STATUS_REPORTS)
    with theirs, line(ours) as ear:
        builder.send(VtpmNoted())
        if asked:
            builder.send(EndVtpm())
        else:
            theirs.close()  # a builder that dies ends no vTPM that its journal names
            os.eventfd_write(ended, 1)
        # When it waits for its end
        ending = wait_for_end(ear, ended)
    # Then it knows which it was
    assert ending == (END_ASKED if asked else DEVICE_GONE)
    os.close(ended)


def test_a_builder_that_dies_before_it_noted_the_vtpm_leaves_none_behind() -> None:
    # Given a vTPM that no journal names yet
    ours, theirs = channel.pair()
    ended = os.eventfd(0)
    # When its builder dies
    theirs.close()
    with line(ours) as ear:
        ending = wait_for_end(ear, ended)
    # Then it ends, for nobody would find it
    assert ending == BUILDER_GONE
    os.close(ended)


@contextmanager
def line(status: socket.socket) -> Iterator[BuilderLine]:
    """Give a vTPM's ear: its end of a status channel, and a door at which nobody knocks."""
    channel_of_vtpm = Channel(status, sends=STATUS_REPORTS, receives=STATUS_REQUESTS)
    with status, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind("")  # a name of the kernel's choice
        door.listen()
        yield BuilderLine(channel_of_vtpm, door, KeyChannels())
