"""What the attester is asked for: one JSON object, strictly read.

`{"nonce": HEX, "user_data": HEX, "pcrs": [INDEX, ...]}`; user data and PCRs may be left out.
"""

from __future__ import annotations

import json

from .failure import AttesterError

MAX_LINE = 1024  # bytes; a sensible request has under 400
NONCE_SIZE = 32  # bytes
MAX_USER_DATA = 64  # bytes
REGISTERS = range(24)  # PC Client Platform TPM Profile
LAUNCH_REGISTERS = (17, 18)  # the vTPM adds them in any case
KEYS = {"nonce", "user_data", "pcrs"}


class Request:
    """One wish for evidence."""

    def __init__(self, nonce: bytes, user_data: bytes, registers: list[int]) -> None:
        self.nonce = nonce
        self.user_data = user_data
        self.registers = registers

    def encode(self) -> bytes:
        """Write what the mailbox's request index takes: nonce, PCR bitmap, user data and size."""
        bitmap = sum(1 << register for register in set(self.registers)).to_bytes(3, "little")
        return self.nonce + bitmap + bytes([len(self.user_data)]) + self.user_data


def parse_request(line: bytes) -> Request:
    """Read a request; any bytes at all are a request or an AttesterError."""
    if len(line) > MAX_LINE:
        raise _bad(f"it is longer than {MAX_LINE} bytes")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise _bad("it is not JSON") from None
    if not isinstance(fields, dict) or not {"nonce"} <= fields.keys() <= KEYS:
        raise _bad("it is not an object of nonce, user_data and pcrs")
    return make_request(
        fields["nonce"], fields.get("user_data", ""), fields.get("pcrs", list(LAUNCH_REGISTERS))
    )


def make_request(nonce: object, user_data: object, registers: object) -> Request:
    """Check each part and make the request."""
    nonce_bytes, user_bytes = _from_hex(nonce, "nonce"), _from_hex(user_data, "user_data")
    if len(nonce_bytes) != NONCE_SIZE:
        raise _bad(f"its nonce has {len(nonce_bytes)} bytes, not {NONCE_SIZE}")
    if len(user_bytes) > MAX_USER_DATA:
        raise _bad(f"its user_data has {len(user_bytes)} bytes, more than {MAX_USER_DATA}")
    if not isinstance(registers, list) or not all(
        type(each) is int and each in REGISTERS for each in registers
    ):
        raise _bad("its pcrs are not a list of numbers from 0 to 23")
    return Request(nonce_bytes, user_bytes, registers)


def _from_hex(value: object, name: str) -> bytes:
    if isinstance(value, str):
        try:
            return bytes.fromhex(value)
        except ValueError:
            pass  # refused below, as any other value is
    raise _bad(f"its {name} is not hexadecimal")


def _bad(problem: str) -> AttesterError:
    return AttesterError(
        "TDM-ATTESTER-BAD-REQUEST",
        f"the request is refused: {problem}",
        hint="ask with an object of nonce (64 hex digits), user_data (hex) and pcrs (numbers)",
    )
