"""TPM 2.0 commands as somebody sent them: header, handles and authorization area, or a refusal.

Total: any bytes give a `Request` of a known command or raise `BadRequest` with the response code
that a TPM answers them with (Part 3, 5.2 to 5.6).  Parameters stay bytes: what broker and gate need
of them is read by `TpmBytes`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from tandem.errors import UntrustedInput
from tandem.wire.tpm_commands import HEADER, NO_SESSIONS, PASSWORD, SESSIONS
from tandem.wire.tpm_table import TABLE, Row

REQUEST_LIMIT: Final = 4096  # TPM_PT_MAX_COMMAND_SIZE of PC Client TPMs
SESSIONS_MOST: Final = 3  # Part 1, 18.6
HANDLE_SIZE: Final = 4

CONTINUES: Final = 0x01  # TPMA_SESSION (Part 2, 8.4)
AUDIT_EXCLUSIVE: Final = 0x02
DECRYPTS: Final = 0x20
AUDITS: Final = 0x80

_HANDLES: Final = tuple(struct.Struct(f">{count}I") for count in range(4))  # Part 1, 18.5: 3
_HANDLE_AND_NONCE: Final = struct.Struct(">IH")  # TPMS_AUTH_COMMAND, up to the nonce and after it
_ATTRIBUTES_AND_HMAC: Final = struct.Struct(">BH")

HMAC_SESSIONS: Final = 0x02  # TPM_HT (Part 2, 7.2): the first octet of a handle
POLICY_SESSIONS: Final = 0x03

BAD_TAG: Final = 0x01E  # TPM_RC (Part 2, 6.6)
AUTH_MISSING: Final = 0x125
COMMAND_SIZE: Final = 0x142
COMMAND_CODE: Final = 0x143
AUTHSIZE: Final = 0x144
INSUFFICIENT: Final = 0x09A
VALUE: Final = 0x084


class BadRequest(UntrustedInput):
    """Bytes that are no command; `number` is what a TPM answers them with."""

    def __init__(self, number: int, problem: str, offset: int) -> None:
        super().__init__(
            "TDM-TPM-COMMAND-BROKEN",
            f"a TPM command {problem}",
            hint="the program that sent it is broken or hostile",
            offset=offset,
        )
        self.number = number


class TpmBytes:
    """A position in what a client sent; reading past the end is TPM_RC_INSUFFICIENT."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self.at = at

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self.at

    def integer(self, size: int) -> int:
        """Read a big-endian integer of `size` bytes."""
        return int.from_bytes(self.take(size))

    def sized(self) -> bytes:
        """Read a TPM2B (Part 2, 10.4)."""
        return self.take(self.integer(2))

    def take(self, size: int) -> bytes:
        """Read `size` bytes."""
        end = self.at + size
        if end > len(self._data):
            raise BadRequest(INSUFFICIENT, f"ends at {len(self._data)}, not {end}", self.at)
        start, self.at = self.at, end
        return self._data[start:end]


@dataclass(frozen=True, kw_only=True, slots=True)
class Authorization:
    """TPMS_AUTH_COMMAND (Part 2, 10.13.2): which session, and how; nonce and HMAC stay unread."""

    handle: int
    attributes: int

    @property
    def is_password(self) -> bool:
        """Whether it is the authValue in clear, and no session."""
        return self.handle == PASSWORD


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One command that is in the table."""

    row: Row
    handles: tuple[int, ...]
    authorizations: tuple[Authorization, ...]
    data: bytes
    parameters_at: int

    @property
    def parameters(self) -> TpmBytes:
        """A reader at the first parameter."""
        return TpmBytes(self.data, self.parameters_at)

    @property
    def sessions(self) -> tuple[int, ...]:
        """Give the handle of each session in the authorization area."""
        return tuple(each.handle for each in self.authorizations if not each.is_password)

    def with_handles(self, handles: tuple[int, ...]) -> bytes:
        """Write the command with other handles; whatever its HMACs cover stays as it is."""
        start = HEADER.size
        area = b"".join(handle.to_bytes(HANDLE_SIZE) for handle in handles)
        return self.data[:start] + area + self.data[start + len(area) :]


def code_of(data: bytes) -> int:
    """Give the command code or response code of a header; 0 where there is none."""
    return int.from_bytes(data[6 : HEADER.size])


def parse_request(data: bytes) -> Request:
    """Read a command."""
    if len(data) < HEADER.size:
        raise BadRequest(COMMAND_SIZE, f"has {len(data)} bytes", 0)
    tag, size, code = HEADER.unpack_from(data)
    if tag not in (NO_SESSIONS, SESSIONS):
        raise BadRequest(BAD_TAG, f"has the tag {tag:#06x}", 0)
    if size != len(data) or size > REQUEST_LIMIT:
        raise BadRequest(COMMAND_SIZE, f"of {len(data)} bytes says it has {size}", 2)
    row = TABLE.get(code)
    if row is None:
        raise BadRequest(COMMAND_CODE, f"has the unknown code {code:#x}", 6)
    at = HEADER.size + HANDLE_SIZE * len(row.places)
    if at > size:
        raise BadRequest(INSUFFICIENT, f"{row.name} lacks handles", size)
    handles = _HANDLES[len(row.places)].unpack_from(data, HEADER.size)
    authorizations: tuple[Authorization, ...] = ()
    if tag == SESSIONS:
        authorizations, at = _authorizations(data, at)
    if len(authorizations) < row.authorizations:
        raise BadRequest(AUTH_MISSING, f"{row.name} lacks authorizations", at)
    return Request(
        row=row, handles=handles, authorizations=authorizations, data=data, parameters_at=at
    )


def _authorizations(data: bytes, at: int) -> tuple[tuple[Authorization, ...], int]:
    """Read the authorization area at `at`; gives where the parameters begin, too."""
    start = at + 4
    end = start + int.from_bytes(data[at:start])
    found: list[Authorization] = []
    at = start
    while at < end <= len(data) and len(found) < SESSIONS_MOST:
        authorization, at = _authorization(data, at, end)
        found.append(authorization)
    if at != end or not found:
        raise BadRequest(AUTHSIZE, "has a broken authorization area", at)
    return tuple(found), end


def _authorization(data: bytes, at: int, end: int) -> tuple[Authorization, int]:
    """Read one authorization; gives where the next one begins, too."""
    try:
        handle, nonce_size = _HANDLE_AND_NONCE.unpack_from(data, at)
        at += _HANDLE_AND_NONCE.size + nonce_size
        attributes, hmac_size = _ATTRIBUTES_AND_HMAC.unpack_from(data, at)
        at += _ATTRIBUTES_AND_HMAC.size + hmac_size
    except struct.error:
        at = len(data) + 1
    if at > end:
        raise BadRequest(AUTHSIZE, "has an authorization beyond its area", end)
    if handle != PASSWORD and handle >> 24 not in (HMAC_SESSIONS, POLICY_SESSIONS):
        raise BadRequest(VALUE, f"is authorized by {handle:#x}, no session", at)
    return Authorization(handle=handle, attributes=attributes), at
