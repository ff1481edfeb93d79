"""The way to the pTPM, with a TPM that the test plays."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tandem.manager import tcti
from tandem.manager.tcti import DescriptorTcti, Esys, PtpmFailed

GET_RANDOM = bytes.fromhex("80010000000c0000017b0008")
NV_EXTEND = bytes.fromhex("80020000000a00000136")
RANDOM = bytes.fromhex("80010000001400000000") + bytes.fromhex("0008") + b"12345678"
Tpm = Callable[..., int]


def warning(code: int) -> bytes:
    return bytes.fromhex("80010000000a") + code.to_bytes(4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcti, "BUSY_SECONDS", 0.2)


@pytest.fixture
def tpm() -> Iterator[Tpm]:
    """Give a function that plays a TPM with these answers; None hangs, `b""` hangs up."""
    opened: list[socket.socket] = []

    def play(*answers: bytes | None) -> int:
        ours, theirs = socket.socketpair()
        opened.extend([ours, theirs])

        def serve() -> None:
            with contextlib.suppress(OSError):  # the test has ended
                for answer in answers:
                    if not theirs.recv(4096) or answer is None:
                        return
                    if answer == b"":
                        theirs.close()
                        return
                    theirs.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return ours.fileno()

    yield play
    for each in opened:
        each.close()


@pytest.mark.parametrize("code", [0x922, 0x908, 0x90A, 0x920, 0x923])
def test_a_busy_tpm_is_asked_again(tpm: Tpm, code: int) -> None:
    # Given a TPM that is busy twice
    way = DescriptorTcti(tpm(warning(code), warning(code), RANDOM))
    # When it is asked
    # Then the answer is that of the third time
    assert way.transceive(GET_RANDOM) == RANDOM


def test_a_tpm_that_stays_busy_is_named_and_may_be_asked_later(tpm: Tpm) -> None:
    # Given a TPM that is busy for longer than anybody waits
    descriptor = tpm(*[warning(0x922)] * 6, RANDOM)
    esys = Esys(descriptor)
    # When it is asked through ESAPI
    with pytest.raises(PtpmFailed) as raised:
        esys.get_random(8)
    # Then it is named, and the next command is a new one
    assert raised.value.code == "TDM-PTPM-BUSY"
    assert bytes(esys.get_random(8)) == b"12345678"


def test_who_sends_raw_commands_learns_that_the_tpm_is_busy(tpm: Tpm) -> None:
    # Given a TPM that stays busy
    way = DescriptorTcti(tpm(*[warning(0x908)] * 20))
    # When a raw command is sent
    # Then the TPM's own answer comes back
    assert way.transceive(GET_RANDOM) == warning(0x908)


def test_a_lockout_is_named(tpm: Tpm) -> None:
    # Given a TPM in lockout
    esys = Esys(tpm(warning(0x921)))
    # When it is asked
    with pytest.raises(PtpmFailed) as raised:
        esys.get_random(8)
    # Then the error says so
    assert raised.value.code == "TDM-PTPM-LOCKOUT"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "TDM-PTPM-HUNG"),
        (b"", "TDM-PTPM-GONE"),
        (bytes.fromhex("8001"), "TDM-PTPM-HUNG"),
        (RANDOM[:-1], "TDM-PTPM-HUNG"),
        (bytes.fromhex("80010000ffff00000000"), "TDM-PTPM-GARBLED"),
        (bytes.fromhex("80010000000900000000"), "TDM-PTPM-GARBLED"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TDM-PTPM-GARBLED"),
        (RANDOM + b"x", "TDM-PTPM-GARBLED"),
        (warning(0x100), "TDM-PTPM-RESET"),
    ],
)
def test_a_tpm_that_fails_is_named_and_asked_no_more(
    tpm: Tpm, answer: bytes | None, code: str
) -> None:
    # Given a TPM that would answer the second time
    esys = Esys(tpm(answer, RANDOM))
    esys.tcti._answer_seconds = 0.2
    # When it is asked twice
    for _ in range(2):
        with pytest.raises(PtpmFailed) as raised:
            esys.get_random(8)
        # Then both times the error says why, and raw commands get the same
        assert raised.value.code == code
    with pytest.raises(PtpmFailed) as raised:
        esys.tcti.transceive(GET_RANDOM)
    assert raised.value.code == code


def test_an_answer_to_what_nobody_asked_is_not_taken_for_the_next() -> None:
    # Given a TPM whose last answer comes twice
    ours, theirs = socket.socketpair()
    way = DescriptorTcti(ours.fileno())
    theirs.send(RANDOM)
    # When the next command is sent
    with pytest.raises(PtpmFailed) as raised:
        way.transceive(GET_RANDOM)
    # Then that is not its answer
    assert raised.value.code == "TDM-PTPM-GARBLED"
    theirs.close()
    ours.close()


def test_a_response_may_come_in_parts() -> None:
    # Given a TPM whose response comes byte by byte
    ours, theirs = socket.socketpair()

    def serve() -> None:
        theirs.recv(4096)
        for at in range(len(RANDOM)):
            theirs.send(RANDOM[at : at + 1])

    threading.Thread(target=serve, daemon=True).start()
    # When it is asked
    # Then the response is whole
    assert DescriptorTcti(ours.fileno()).transceive(GET_RANDOM) == RANDOM
    theirs.close()
    ours.close()


def test_a_long_wait_is_told_of(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a TPM that takes its time
    monkeypatch.setattr(tcti, "SLICE_SECONDS", 0.02)
    waits: list[None] = []
    way = DescriptorTcti(tpm(None), answer_seconds=0.2)
    way.waiting = lambda: waits.append(None)
    # When somebody waits for it
    with pytest.raises(PtpmFailed):
        way.transceive(GET_RANDOM)
    # Then the loop's watchdog hears of it again and again
    assert len(waits) > 3


def test_each_command_is_observed(tpm: Tpm) -> None:
    # Given a TPM that is busy first
    seen: list[tuple[int, int]] = []
    way = DescriptorTcti(tpm(warning(0x922), RANDOM))
    way.observe = lambda code, response, _: seen.append((code, response))
    # When it is asked
    way.transceive(GET_RANDOM)
    # Then both times are seen, with their response codes
    assert seen == [(0x17B, 0x922), (0x17B, 0)]


def test_a_device_that_fails_is_gone() -> None:
    # Given a descriptor that takes no commands, as of a device whose driver was removed
    descriptor = os.open("/dev/null", os.O_RDONLY)
    # When a command is sent
    with pytest.raises(PtpmFailed) as raised:
        DescriptorTcti(descriptor).transceive(GET_RANDOM)
    # Then it is named
    assert raised.value.code == "TDM-PTPM-GONE"
    os.close(descriptor)


def test_a_change_of_nv_memory_is_stored_before_it_is_told(tpm: Tpm) -> None:
    # Given a TPM that extends an index, refuses to do it again, and gives random bytes
    done, refused = bytes.fromhex("80010000000a00000000"), warning(0x14B)
    way = DescriptorTcti(tpm(done, refused, RANDOM))
    stored: list[str] = []
    way.stored = lambda: stored.append("stored")
    # When it is asked for all three
    answers = [way.transceive(each) for each in (NV_EXTEND, NV_EXTEND, GET_RANDOM)]
    # Then what stores its memory was called for what changed it
    assert (answers, stored) == ([done, refused, RANDOM], ["stored"])


def test_a_change_that_cannot_be_stored_is_never_told(tpm: Tpm) -> None:
    # Given a TPM whose memory is on a disk that fails
    way = DescriptorTcti(tpm(bytes.fromhex("80010000000a00000000"), RANDOM))

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    way.stored = fail
    # When it changes its memory
    with pytest.raises(PtpmFailed) as raised:
        way.transceive(NV_EXTEND)
    # Then it is given up: what it holds after a power cut cannot be known
    assert raised.value.code == "TDM-PTPM-GONE"
    with pytest.raises(PtpmFailed):
        way.transceive(GET_RANDOM)
