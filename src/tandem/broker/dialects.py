"""How TPM commands arrive on the broker's sockets and how responses leave; pure.

*Raw*: commands and responses as they are, each with its size in its header: the Unix socket, and
swtpm's data port.  *Mssim*: framed as the reference simulator's TCP protocol does it.  Both have a
second port for what a platform does to its TPM; nobody does that to the host's: it has no effect.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from tandem.errors import UntrustedInput
from tandem.wire.control import Command as Control
from tandem.wire.control import Result, encode_result
from tandem.wire.tpm_commands import HEADER

MAX_COMMAND: Final = 4096  # bytes; MAX_COMMAND_SIZE of PC Client TPMs
U32: Final = struct.Struct(">I")
SEND: Final = struct.Struct(">IBI")  # command number, locality, size
LOCALITY_REQUEST: Final = struct.Struct(">IB")  # as libtss2 sends it; QEMU pads it


class Signal(IntEnum):
    """What mssim's clients send (TpmTcpProtocol.h of the reference implementation)."""

    POWER_ON = 1
    SEND_COMMAND = 8
    CANCEL_ON = 9
    CANCEL_OFF = 10
    NV_ON = 11
    SESSION_END = 20
    STOP = 21


HARMLESS: Final = (Signal.POWER_ON, Signal.CANCEL_ON, Signal.CANCEL_OFF, Signal.NV_ON)
ENDING: Final = (Signal.SESSION_END, Signal.STOP)


class TpmCommand(NamedTuple):
    """A whole TPM command."""

    data: bytes


class Reply(NamedTuple):
    """What to answer at once: it was no TPM command."""

    data: bytes


@dataclass(frozen=True, kw_only=True)
class End:
    """The client says that it is done."""


Request = TpmCommand | Reply | End


class Dialect(Protocol):
    """One way to speak on a stream."""

    def parse(self, buffer: bytes) -> tuple[Request, int] | None:
        """Read a request from the start of `buffer`, with its size there; None: more is due.

        Raises UntrustedInput where no further byte could be understood.
        """

    def frame(self, response: bytes) -> bytes:
        """Write a TPM response."""


class Raw:
    """Commands and responses as they are."""

    def parse(self, buffer: bytes) -> tuple[Request, int] | None:
        """Read a TPM command; its header says how long it is (Part 1, 18.8)."""
        if len(buffer) < HEADER.size:
            return None
        _, size, _ = HEADER.unpack_from(buffer)
        _require_size(size)
        return (TpmCommand(data=buffer[:size]), size) if len(buffer) >= size else None

    def frame(self, response: bytes) -> bytes:
        """Write a response."""
        return response


class Mssim:
    """The simulator's TPM port."""

    def parse(self, buffer: bytes) -> tuple[Request, int] | None:
        """Read a signal: a TPM command with its locality, or the end."""
        if len(buffer) < U32.size:
            return None
        [number] = U32.unpack_from(buffer)
        if number in ENDING:
            return End(), U32.size
        if number != Signal.SEND_COMMAND:
            raise _unknown(number)
        if len(buffer) < SEND.size:
            return None
        _, _, size = SEND.unpack_from(buffer)  # whatever locality it names: the channel has one
        _require_size(size)
        end = SEND.size + size
        return (TpmCommand(data=buffer[SEND.size : end]), end) if len(buffer) >= end else None

    def frame(self, response: bytes) -> bytes:
        """Write a response between its size and the simulator's own result."""
        return U32.pack(len(response)) + response + U32.pack(0)


class MssimPlatform:
    """The simulator's platform port: power and non-volatile memory are on, and stay so."""

    def parse(self, buffer: bytes) -> tuple[Request, int] | None:
        """Read a signal."""
        if len(buffer) < U32.size:
            return None
        [number] = U32.unpack_from(buffer)
        if number in ENDING:
            return End(), U32.size
        if number not in HARMLESS:
            raise _unknown(number)
        return Reply(data=U32.pack(0)), U32.size

    def frame(self, response: bytes) -> bytes:
        """Never asked: no TPM command arrives here."""
        return response


class SwtpmControl:
    """Swtpm's control port as libtss2 uses it: locality 0, and a cancel that has no effect."""

    def parse(self, buffer: bytes) -> tuple[Request, int] | None:
        """Read a control request."""
        if len(buffer) < U32.size:
            return None
        [number] = U32.unpack_from(buffer)
        if number == Control.CANCEL_TPM_CMD:
            return Reply(data=encode_result(Result.SUCCESS)), U32.size
        if number != Control.SET_LOCALITY:
            raise _unknown(number)
        if len(buffer) < LOCALITY_REQUEST.size:
            return None
        _, locality = LOCALITY_REQUEST.unpack_from(buffer)
        result = Result.BAD_LOCALITY if locality else Result.SUCCESS
        return Reply(data=encode_result(result)), LOCALITY_REQUEST.size

    def frame(self, response: bytes) -> bytes:
        """Never asked: no TPM command arrives here."""
        return response


def _require_size(size: int) -> None:
    if not HEADER.size <= size <= MAX_COMMAND:
        raise UntrustedInput(
            "TDM-BROKER-COMMAND-SIZE",
            f"a command of {size} bytes, where one has {HEADER.size} to {MAX_COMMAND}",
            hint="the client is broken or speaks another protocol: its connection is closed",
            offset=0,
        )


def _unknown(number: int) -> UntrustedInput:
    return UntrustedInput(
        "TDM-BROKER-SIGNAL",
        f"a client asks to {number:#x} the host's TPM, which nobody does through the broker",
        hint="use the TCTI that belongs to this port: mssim or swtpm",
        offset=0,
    )
