"""swtpm control channel: what a hypervisor asks of a vTPM (tpm_ioctl.h, swtpm_ioctls(3)).

On the UNIX socket a request is a big-endian `uint32 cmd` and a body whose layout depends on the
command; a response starts with a big-endian `uint32 tpm_result`.  This module turns bytes into
requests and results into bytes.  It opens no socket and keeps no state.

A hypervisor waits for as many bytes as the successful answer has, so a refusal is padded to that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from tandem.errors import UntrustedInput

# The socket form allows 0xffffffff bytes of data.  A request is held whole, so we allow less.
MAX_HASH_DATA: Final = 1024 * 1024
MAX_STATE_BLOB: Final = 512 * 1024  # as in swtpm


class Command(IntEnum):
    """Command numbers of the control channel, by their names in tpm_ioctl.h."""

    GET_CAPABILITY = 0x01
    INIT = 0x02
    SHUTDOWN = 0x03
    GET_TPMESTABLISHED = 0x04
    SET_LOCALITY = 0x05
    HASH_START = 0x06
    HASH_DATA = 0x07
    HASH_END = 0x08
    CANCEL_TPM_CMD = 0x09
    STORE_VOLATILE = 0x0A
    RESET_TPMESTABLISHED = 0x0B
    GET_STATEBLOB = 0x0C
    SET_STATEBLOB = 0x0D
    STOP = 0x0E
    GET_CONFIG = 0x0F
    SET_DATAFD = 0x10
    SET_BUFFERSIZE = 0x11
    GET_INFO = 0x12
    LOCK_STORAGE = 0x13


# Fixed part of each body; where a body goes on, its last fixed field is the length of the rest.
BODIES: Final = {
    Command.INIT: struct.Struct(">I"),  # init_flags
    Command.SET_LOCALITY: struct.Struct(">4B"),  # loc, and what pads the union that QEMU sends
    Command.HASH_DATA: struct.Struct(">I"),  # length
    Command.RESET_TPMESTABLISHED: struct.Struct(">4B"),  # the same
    Command.GET_STATEBLOB: struct.Struct(">III"),  # state_flags, type, offset
    Command.SET_STATEBLOB: struct.Struct(">III"),  # state_flags, type, length
    Command.SET_BUFFERSIZE: struct.Struct(">I"),  # buffersize
    Command.GET_INFO: struct.Struct(">QII"),  # flags, offset, pad
    Command.LOCK_STORAGE: struct.Struct(">I"),  # retries
}
DATA_LIMITS: Final = {
    Command.HASH_DATA: MAX_HASH_DATA,
    Command.SET_STATEBLOB: MAX_STATE_BLOB,
}
EMPTY_BODY: Final = struct.Struct("")
HEADER: Final = struct.Struct(">I")
RESPONSE_SIZES: Final = {  # bytes of a successful answer's fixed part, where more than a result
    Command.GET_CAPABILITY: 8,  # result, caps
    Command.GET_TPMESTABLISHED: 8,  # result, bit, padding
    Command.GET_STATEBLOB: 16,  # result, state_flags, totlength, length
    Command.GET_CONFIG: 8,  # result, flags
    Command.SET_BUFFERSIZE: 16,  # result, buffersize, minsize, maxsize
    Command.GET_INFO: 12,  # result, totlength, length
}


class Result(IntEnum):
    """Result codes of this channel: TPM 1.2 numbers, for a TPM 2.0 as well (tpm_error.h)."""

    SUCCESS = 0
    BAD_PARAMETER = 3
    FAIL = 9
    BAD_ORDINAL = 10  # also: not in this state
    BAD_LOCALITY = 61


class Capability(IntFlag):
    """Bits of GET_CAPABILITY (PTM_CAP_* in tpm_ioctl.h)."""

    INIT = 1 << 0
    SHUTDOWN = 1 << 1
    GET_TPMESTABLISHED = 1 << 2
    SET_LOCALITY = 1 << 3
    CANCEL_TPM_CMD = 1 << 5
    RESET_TPMESTABLISHED = 1 << 7
    STOP = 1 << 10
    SET_DATAFD = 1 << 12
    SET_BUFFERSIZE = 1 << 13


@dataclass(frozen=True, kw_only=True)
class Request:
    """One control request; `fields` hold the fixed body in the order tpm_ioctl.h declares it."""

    command: Command
    fields: tuple[int, ...] = ()
    data: bytes = b""

    def encode(self) -> bytes:
        """Write the request as a hypervisor would send it."""
        body = BODIES.get(self.command, EMPTY_BODY)
        return HEADER.pack(self.command) + body.pack(*self.fields) + self.data


@dataclass(frozen=True, kw_only=True)
class NeedMore:
    """The buffer ends inside a request; at least `missing` further bytes are due."""

    missing: int


def parse_request(buffer: bytes) -> tuple[Request, int] | NeedMore:
    """Read one request from the start of `buffer` and say how many bytes it took."""
    if len(buffer) < HEADER.size:
        return NeedMore(missing=HEADER.size - len(buffer))
    command = _command(HEADER.unpack_from(buffer)[0])
    body = BODIES.get(command, EMPTY_BODY)
    start = HEADER.size + body.size
    if len(buffer) < start:
        return NeedMore(missing=start - len(buffer))
    fields: tuple[int, ...] = body.unpack_from(buffer, HEADER.size)
    end = start + _data_length(command, fields)
    if len(buffer) < end:
        return NeedMore(missing=end - len(buffer))
    return Request(command=command, fields=fields, data=buffer[start:end]), end


def encode_result(tpm_result: int, payload: bytes = b"") -> bytes:
    """Write a response: the TPM result code, then what the command returns."""
    return HEADER.pack(tpm_result) + payload


def encode_refusal(command: Command, tpm_result: Result) -> bytes:
    """Write a refusal, as long as the answer that the hypervisor waits for."""
    return HEADER.pack(tpm_result).ljust(RESPONSE_SIZES.get(command, HEADER.size), b"\x00")


def _command(number: int) -> Command:
    try:
        return Command(number)
    except ValueError:
        raise UntrustedInput(
            "TDM-CONTROL-UNKNOWN-COMMAND",
            f"control request asks for command {number:#x}",
            hint="the hypervisor speaks another version of swtpm's protocol: use QEMU 7.2 or later",
            offset=0,
        ) from None


def _data_length(command: Command, fields: tuple[int, ...]) -> int:
    limit = DATA_LIMITS.get(command)
    if limit is None:
        return 0
    length = fields[-1]
    if length > limit:
        raise UntrustedInput(
            "TDM-CONTROL-DATA-TOO-LONG",
            f"{command.name} announces {length} bytes, more than the {limit} allowed",
            hint="the sender is broken or hostile: its vTPM connection is closed",
            offset=BODIES[command].size,  # where the length field, last of the body, begins
        )
    return length
