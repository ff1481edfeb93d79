"""Vendor command: a deep quote in one round trip, and its entry in what the TPM says it can do.

Command 0x20000001, without sessions: offset (32 bits), and at offset 0 the request.  The response
is the total size (32 bits) and the bytes from offset on (TPM2B), of the same framed answer that the
mailbox holds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from tandem.evidence.deep_quote import REQUEST_SIZE
from tandem.vtpm.libtpms import Engine
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import HEADER, NO_SESSIONS, Code, Rc

PAGE_SIZE: Final = 3000  # fits the smallest TPM buffer (3,968 bytes, tpm-crb)
OFFSET: Final = struct.Struct(">I")
REQUEST_MINIMUM: Final = 36  # nonce, selection, length of the user data
CAPABILITY_QUERY: Final = struct.Struct(">HIIIII")  # header; capability, property, count
LIST_HEAD: Final = struct.Struct(">BII")  # moreData, capability, count (Part 2, 10.10.1)
TOTAL_COMMANDS: Final = 0x129  # TPM_PT (Part 2, 6.13)
VENDOR_COMMANDS: Final = 0x12B


class VendorCommand:
    """The deep-quote command of one vTPM; the last answer is kept, for its further pages."""

    def __init__(self, make_answer: Callable[[bytes], bytes]) -> None:
        self._make_answer = make_answer
        self._answer = b""

    def execute(self, command: bytes) -> bytes:
        """Answer one page."""
        body = command[HEADER.size :]
        if len(body) < OFFSET.size:
            return tpm.response(Rc.COMMAND_SIZE)
        tag, _, _ = HEADER.unpack_from(command)
        if tag != NO_SESSIONS:
            return tpm.response(Rc.AUTH_CONTEXT)
        (offset,) = OFFSET.unpack_from(body)
        request = body[OFFSET.size :]
        if not (REQUEST_MINIMUM <= len(request) <= REQUEST_SIZE if offset == 0 else not request):
            return tpm.response(Rc.SIZE_1)
        if offset == 0:
            self._answer = self._make_answer(request)
        if offset >= len(self._answer):
            return tpm.response(Rc.VALUE_1)
        page = self._answer[offset : offset + PAGE_SIZE]
        return tpm.response(Rc.SUCCESS, len(self._answer).to_bytes(4) + tpm.sized(page))


class Capabilities:
    """GetCapability with the vendor command among the others."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def execute(self, command: bytes) -> bytes | memoryview:
        """Execute GetCapability; where an audit session signs the answer, it stays as it is."""
        answer = self._engine.answer(command)
        if len(command) != CAPABILITY_QUERY.size or len(answer) < HEADER.size + LIST_HEAD.size:
            return answer
        tag, _, _, capability, first, count = CAPABILITY_QUERY.unpack(command)
        if tag != NO_SESSIONS:
            return answer
        match capability:
            case tpm.CAPABILITY_COMMANDS:
                return with_vendor_command(bytes(answer), first, count)
            case tpm.CAPABILITY_PROPERTIES:
                return with_vendor_counts(bytes(answer))
            case _:
                return answer


def with_vendor_command(answer: bytes, first: int, asked: int) -> bytes:
    """Add the vendor command (TPMA_CC, Part 2, 8.9) at the end of a list of commands."""
    more, capability, count = LIST_HEAD.unpack_from(answer, HEADER.size)
    if more or first > Code.DEEP_QUOTE:
        return answer
    listed = answer[HEADER.size + LIST_HEAD.size :]
    if count >= asked:
        return tpm.response(Rc.SUCCESS, LIST_HEAD.pack(1, capability, count) + listed)
    head = LIST_HEAD.pack(0, capability, count + 1)
    return tpm.response(Rc.SUCCESS, head + listed + Code.DEEP_QUOTE.to_bytes(4))


def with_vendor_counts(answer: bytes) -> bytes:
    """Count the vendor command in TPM_PT_TOTAL_COMMANDS and TPM_PT_VENDOR_COMMANDS."""
    start = HEADER.size + LIST_HEAD.size
    counted = (TOTAL_COMMANDS, VENDOR_COMMANDS)
    properties = [
        (tag, value + 1 if tag in counted else value)
        for tag, value in struct.iter_unpack(">II", answer[start:])
    ]
    return answer[:start] + b"".join(struct.pack(">II", *each) for each in properties)
