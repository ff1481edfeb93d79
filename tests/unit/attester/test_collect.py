"""Collecting evidence: the answer to this request and no other, and the logs beside it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.attester.collect import collect, deep_quote
from tandem.attester.failure import AttesterError
from tandem.attester.guest_tpm import GuestTpm
from tandem.attester.request import Request
from tandem.evidence.deep_quote import (
    REQUEST_SIZE,
    DeepQuoteRequest,
    frame_answer,
    parse_request,
    unframe_answer,
)

NONCE = bytes(range(32))
REQUEST = Request(NONCE, b"channel", [0, 17, 18])


REQUEST_INDEX = 0x01400101
FIRST_ANSWER = 0x01400110
ANSWER_COUNT = 8
ANSWER_SIZE = 2048
RC_HANDLE_1 = 0x18B


class MailboxTpm(GuestTpm):
    """A TPM with the mailbox, as far as the attester speaks with it (Part 3, section 31).

    It holds NV indices; `answer_to` makes the answer when a request is written.
    """

    def __init__(self) -> None:
        self.indices = {FIRST_ANSWER + n: bytearray(ANSWER_SIZE) for n in range(ANSWER_COUNT)}
        self.indices[REQUEST_INDEX] = bytearray(100)
        self.answer_to: Callable[[bytes], bytes] = lambda request: b""
        self.read_sizes: list[int] = []

    def exchange(self, command: bytes) -> bytes:
        tag, size, code = struct.unpack_from(">HII", command)
        assert size == len(command)
        index = struct.unpack_from(">I", command, 10)[0]
        if index not in self.indices:
            return struct.pack(">HII", 0x8001, 10, RC_HANDLE_1)
        match code:
            case 0x169:  # NV_ReadPublic
                public = struct.pack(">IHIH", index, 0x000B, 0x60040, 0)
                public += struct.pack(">H", len(self.indices[index]))
                return self._respond(tag, struct.pack(">H", len(public)) + public + bytes(36))
            case 0x137:  # NV_Write
                return self._respond(tag, self._write(index, command[18:]))
            case 0x14E:  # NV_Read
                return self._respond(tag, self._read(index, command[18:]))
            case _:
                raise AssertionError(f"command {code:#x}")

    def _write(self, index: int, rest: bytes) -> bytes:
        authorisation_size, handle = struct.unpack_from(">II", rest)
        assert (authorisation_size, handle) == (9, 0x40000009)
        (size,) = struct.unpack_from(">H", rest, 13)
        assert rest[15 + size :] == bytes(2)  # offset 0
        data = rest[15 : 15 + size]
        self.indices[index][:size] = data
        framed = self.answer_to(data)
        for start in range(0, len(framed), ANSWER_SIZE):
            piece = framed[start : start + ANSWER_SIZE]
            self.indices[FIRST_ANSWER + start // ANSWER_SIZE][: len(piece)] = piece
        return b""

    def _read(self, index: int, rest: bytes) -> bytes:
        size, offset = struct.unpack_from(">HH", rest, 13)
        assert offset + size <= len(self.indices[index])
        self.read_sizes.append(size)
        return struct.pack(">H", size) + self.indices[index][offset : offset + size]

    @staticmethod
    def _respond(tag: int, parameters: bytes) -> bytes:
        body = parameters
        if tag == 0x8002:
            body = struct.pack(">I", len(parameters)) + parameters + bytes([0, 0, 1, 0, 0])
        return struct.pack(">HII", tag, 10 + len(body), 0) + body


@pytest.fixture
def tpm() -> MailboxTpm:
    return MailboxTpm()


@pytest.mark.parametrize("size", [32, 2036, 2037, 5000, 8 * 2048 - 12])
def test_an_answer_of_any_length_is_read_whole(tpm: MailboxTpm, size: int) -> None:
    # Given a vTPM whose answer fills one index, several, or all of them
    quote = NONCE + bytes(each % 251 for each in range(size - 32))
    tpm.answer_to = lambda _: frame_answer(quote)

    # When the attester asks
    answer = deep_quote(tpm, REQUEST)

    # Then it hands out what the host's reader takes, and read no more than that
    assert unframe_answer(answer) == quote
    assert sum(tpm.read_sizes) == len(answer) + 12
    assert max(tpm.read_sizes) <= 1024


def test_the_request_is_what_the_vtpm_reads() -> None:
    # Given a request with user data
    # When it is written for the mailbox
    # Then the vTPM's reader finds every part of it
    expected = DeepQuoteRequest(nonce=NONCE, user_data=b"channel", registers=(0, 17, 18))
    assert parse_request(REQUEST.encode()) == expected
    assert len(REQUEST.encode()) <= REQUEST_SIZE


def test_an_answer_to_somebody_else_is_asked_for_again(tpm: MailboxTpm) -> None:
    # Given another program of the guest whose request came in between, once
    answers = iter([frame_answer(b"to another nonce"), frame_answer(NONCE + b"mine")])
    tpm.answer_to = lambda _: next(answers)

    # When the attester asks
    answer = deep_quote(tpm, REQUEST)

    # Then it has the answer to its own nonce
    assert unframe_answer(answer) == NONCE + b"mine"


def test_a_mailbox_that_never_answers_this_nonce_is_an_error(tpm: MailboxTpm) -> None:
    # Given a mailbox that somebody else keeps busy
    tpm.answer_to = lambda _: frame_answer(b"to another nonce")

    # When the attester asks
    # Then it gives up by name
    with pytest.raises(AttesterError) as caught:
        deep_quote(tpm, REQUEST)
    assert caught.value.code == "TDM-ATTESTER-MAILBOX-BUSY"


def test_a_refusal_of_the_vtpm_names_its_reason(tpm: MailboxTpm) -> None:
    # Given a vTPM that answers with a status
    tpm.answer_to = lambda _: frame_answer(NONCE + b" no physical TPM", status=0x101)

    # When the attester asks
    with pytest.raises(AttesterError) as caught:
        deep_quote(tpm, REQUEST)

    # Then the error holds the code's name and the vTPM's words
    assert caught.value.code == "TDM-ATTESTER-NOT-QUOTED"
    assert "TPM_RC_FAILURE (0x101)" in caught.value.problem
    assert "no physical TPM" in caught.value.problem


def test_a_tpm_without_a_mailbox_is_named(tpm: MailboxTpm) -> None:
    # Given the TPM of a guest that Tandem did not start
    tpm.indices.clear()

    # When the attester asks
    with pytest.raises(AttesterError) as caught:
        deep_quote(tpm, REQUEST)

    # Then it says so, with the TPM's response
    assert caught.value.code == "TDM-ATTESTER-NO-MAILBOX"
    assert "TPM_RC_HANDLE (0x18b, handle 1)" in caught.value.problem


@pytest.mark.parametrize("framed", [b"TDQ2" + bytes(8), b"TDQ1" + bytes(4) + b"\xff" * 4])
def test_what_is_no_answer_is_refused(tpm: MailboxTpm, framed: bytes) -> None:
    # Given answer indices that hold something else
    tpm.answer_to = lambda _: framed

    # When the attester asks
    # Then it refuses to hand it out
    with pytest.raises(AttesterError) as caught:
        deep_quote(tpm, REQUEST)
    assert caught.value.code == "TDM-ATTESTER-BAD-ANSWER"


@pytest.mark.parametrize("log", [None, b"Spec ID Event03"])
def test_the_firmware_log_is_added_where_there_is_one(
    tpm: MailboxTpm, tmp_path: Path, log: bytes | None
) -> None:
    # Given a guest with or without firmware that measures
    path = tmp_path / "binary_bios_measurements"
    if log is not None:
        path.write_bytes(log)
    tpm.answer_to = lambda _: frame_answer(NONCE)

    # When evidence is collected
    evidence = collect(tpm, REQUEST, str(path))

    # Then it has the log exactly then
    found = evidence.get("firmware_log")
    assert evidence["format"] == "tandem-evidence-1"
    assert (base64.b64decode(found) if found is not None else None) == log
