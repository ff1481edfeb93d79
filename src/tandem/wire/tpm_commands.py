"""TPM 2.0 commands and responses as bytes: the header of all, and the few that a vTPM runs itself.

Section numbers are those of the TPM 2.0 library specification, revision 1.59: Part 2 for
structures, Part 3 for commands.  Nothing here executes a command or holds state.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tandem.evidence.cursor import Cursor

HEADER: Final = struct.Struct(">HII")  # tag, size, command or response code (Part 3, 5.2)
NO_SESSIONS: Final = 0x8001  # TPM_ST_NO_SESSIONS (Part 2, 6.9)
SESSIONS: Final = 0x8002

OWNER: Final = 0x40000001  # TPM_RH (Part 2, 7.4)
LOCKOUT: Final = 0x4000000A
NULL: Final = 0x40000007
PASSWORD: Final = 0x40000009
ENDORSEMENT: Final = 0x4000000B
PLATFORM: Final = 0x4000000C

SHA1: Final = 0x0004  # TPM_ALG_ID (Part 2, 6.3)
SHA256: Final = 0x000B
SHA384: Final = 0x000C
SHA512: Final = 0x000D
ALG_NULL: Final = 0x0010
REGISTERS: Final = 24  # PC Client PTP, section 4.6
CAPABILITY_COMMANDS: Final = 2  # TPM_CAP (Part 2, 6.12)
CAPABILITY_HANDLES: Final = 1
CAPABILITY_PROPERTIES: Final = 6
TRANSIENT_FIRST: Final = 0x80000000  # TPM_HC (Part 2, 7.5)
LOADED_SESSION_FIRST: Final = 0x02000000
SAVED_SESSION_FIRST: Final = 0x03000000
POLICY_SESSION: Final = 1  # TPM_SE (Part 2, 6.11)


class Code(IntEnum):
    """TPM_CC (Part 2, 6.5.2)."""

    EVICT_CONTROL = 0x120
    HIERARCHY_CHANGE_AUTH = 0x129
    NV_DEFINE_SPACE = 0x12A
    PCR_ALLOCATE = 0x12B
    CREATE_PRIMARY = 0x131
    NV_WRITE = 0x137
    NV_WRITE_LOCK = 0x138
    STARTUP = 0x144
    SHUTDOWN = 0x145
    NV_READ = 0x14E
    POLICY_SECRET = 0x151
    QUOTE = 0x158
    CONTEXT_LOAD = 0x161
    CONTEXT_SAVE = 0x162
    FLUSH_CONTEXT = 0x165
    START_AUTH_SESSION = 0x176
    GET_CAPABILITY = 0x17A
    PCR_READ = 0x17E
    CLOCK_RATE_ADJUST = 0x130
    READ_CLOCK = 0x181
    PCR_EXTEND = 0x182
    DEEP_QUOTE = 0x20000001  # vendor bit 29 (Part 2, 8.9) and Tandem's first number


class Rc(IntEnum):
    """TPM_RC (Part 2, 6.6): those that the vTPM gives or looks for."""

    SUCCESS = 0x000
    INITIALIZE = 0x100
    FAILURE = 0x101
    AUTH_CONTEXT = 0x145
    COMMAND_SIZE = 0x142
    SIZE_1 = 0x1D5  # TPM_RC_SIZE of the first parameter
    VALUE_1 = 0x1C4  # TPM_RC_VALUE of the first parameter
    HIERARCHY_1 = 0x185  # TPM_RC_HIERARCHY of the first handle
    BAD_AUTH_1 = 0x9A2  # TPM_RC_BAD_AUTH of the first session
    OBJECT_MEMORY = 0x902
    SESSION_MEMORY = 0x903
    LOCALITY = 0x907
    RETRY = 0x922


class StartupType(IntEnum):
    """TPM_SU (Part 2, 6.10)."""

    CLEAR = 0
    STATE = 1


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response, split: its handle (where the command returns one) and its parameters."""

    code: int
    handle: int = 0
    parameters: bytes = b""


def parse_response(data: bytes, *, with_handle: bool = False) -> Response:
    """Read a response (Part 1, 18.9); an unsuccessful one is its header alone."""
    cursor = Cursor(data, "TPM response")
    tag = cursor.u16("tag")
    cursor.u32("size")
    code = cursor.u32("code")
    if code != Rc.SUCCESS:
        return Response(code=code)
    handle = cursor.u32("handle") if with_handle else 0
    size = cursor.u32("parameter size") if tag == SESSIONS else cursor.left
    return Response(code=code, handle=handle, parameters=cursor.take(size, "parameters"))


def command(
    code: int,
    handles: Sequence[int] = (),
    parameters: bytes = b"",
    authorizations: Sequence[bytes] = (),
) -> bytes:
    """Write a command (Part 1, 18.8): header, handles, authorizations, parameters."""
    area = b"".join(authorizations)
    middle = len(area).to_bytes(4) + area if authorizations else b""
    body = b"".join(handle.to_bytes(4) for handle in handles) + middle + parameters
    tag = SESSIONS if authorizations else NO_SESSIONS
    return HEADER.pack(tag, HEADER.size + len(body), code) + body


def response(code: int, parameters: bytes = b"") -> bytes:
    """Write a response without sessions."""
    return HEADER.pack(NO_SESSIONS, HEADER.size + len(parameters), code) + parameters


def sized(data: bytes) -> bytes:
    """Write a TPM2B (Part 2, 10.4)."""
    return len(data).to_bytes(2) + data


def password(value: bytes = b"") -> bytes:
    """Write the authorization by password (TPMS_AUTH_COMMAND, Part 2, 10.13.2)."""
    return PASSWORD.to_bytes(4) + sized(b"") + b"\x00" + sized(value)


def policy(session: int) -> bytes:
    """Write the authorization by a policy session that continues."""
    return session.to_bytes(4) + sized(b"") + b"\x01" + sized(b"")


def selection(registers: Sequence[int], bank: int = SHA256) -> bytes:
    """Write a TPML_PCR_SELECTION of one bank (Part 2, 10.9.7)."""
    return (1).to_bytes(4) + _bank_selection(bank, registers)


def _bank_selection(bank: int, registers: Sequence[int]) -> bytes:
    bitmap = sum(1 << register for register in registers)
    return struct.pack(">HB", bank, REGISTERS // 8) + bitmap.to_bytes(REGISTERS // 8, "little")


def startup(kind: StartupType) -> bytes:
    """TPM2_Startup (Part 3, 9.3)."""
    return command(Code.STARTUP, parameters=kind.to_bytes(2))


def shutdown(kind: StartupType) -> bytes:
    """TPM2_Shutdown (Part 3, 9.4)."""
    return command(Code.SHUTDOWN, parameters=kind.to_bytes(2))


def start_policy_session() -> bytes:
    """TPM2_StartAuthSession (Part 3, 11.1) of an unbound, unsalted policy session."""
    fields = sized(bytes(16)) + sized(b"") + struct.pack(">BHH", POLICY_SESSION, ALG_NULL, SHA256)
    return command(Code.START_AUTH_SESSION, (NULL, NULL), fields)


def quote(key: int, auth: bytes, qualifying: bytes, registers: Sequence[int]) -> bytes:
    """TPM2_Quote (Part 3, 18.4) in the key's own scheme, over the SHA-256 bank."""
    fields = sized(qualifying) + ALG_NULL.to_bytes(2) + selection(registers)
    return command(Code.QUOTE, (key,), fields, [password(auth)])


def pcr_extend(register: int, digests: dict[int, bytes]) -> bytes:
    """TPM2_PCR_Extend (Part 3, 22.2); digests by algorithm."""
    values = b"".join(bank.to_bytes(2) + digest for bank, digest in digests.items())
    return command(Code.PCR_EXTEND, (register,), len(digests).to_bytes(4) + values, [password()])


def pcr_read(registers: Sequence[int], bank: int = SHA256) -> bytes:
    """TPM2_PCR_Read (Part 3, 22.4); a TPM answers with at most eight values."""
    return command(Code.PCR_READ, parameters=selection(registers, bank))


def pcr_allocate(banks: Sequence[int]) -> bytes:
    """TPM2_PCR_Allocate (Part 3, 22.5): these banks whole, the others not at all."""
    every = range(REGISTERS)
    entries = [_bank_selection(bank, every if bank in banks else ()) for bank in
               (SHA1, SHA256, SHA384, SHA512)]  # fmt: skip
    fields = len(entries).to_bytes(4) + b"".join(entries)
    return command(Code.PCR_ALLOCATE, (PLATFORM,), fields, [password()])


def policy_secret(entity: int, auth: bytes, session: int) -> bytes:
    """TPM2_PolicySecret (Part 3, 23.4) without nonce, cpHash, reference or expiration."""
    fields = sized(b"") + sized(b"") + sized(b"") + bytes(4)
    return command(Code.POLICY_SECRET, (entity, session), fields, [password(auth)])


def policy_secret_digest(name: bytes) -> bytes:
    """Give the policy that only PolicySecret with the entity `name` satisfies (Part 3, 23.4)."""
    first = hashlib.sha256(bytes(32) + Code.POLICY_SECRET.to_bytes(4) + name).digest()
    return hashlib.sha256(first).digest()


def create_primary(hierarchy: int, public: bytes, auth: bytes = b"") -> bytes:
    """TPM2_CreatePrimary (Part 3, 24.1); `public` is a TPMT_PUBLIC, `auth` the new key's."""
    sensitive = sized(sized(auth) + sized(b""))
    fields = sensitive + sized(public) + sized(b"") + bytes(4)
    return command(Code.CREATE_PRIMARY, (hierarchy,), fields, [password()])


def hierarchy_change_auth(hierarchy: int, auth: bytes) -> bytes:
    """TPM2_HierarchyChangeAuth (Part 3, 24.8) of a hierarchy whose authorization is empty."""
    return command(Code.HIERARCHY_CHANGE_AUTH, (hierarchy,), sized(auth), [password()])


def context_save(handle: int) -> bytes:
    """TPM2_ContextSave (Part 3, 28.2)."""
    return command(Code.CONTEXT_SAVE, (handle,))


def context_load(context: bytes) -> bytes:
    """TPM2_ContextLoad (Part 3, 28.3) of a TPMS_CONTEXT."""
    return command(Code.CONTEXT_LOAD, parameters=context)


def flush_context(handle: int) -> bytes:
    """TPM2_FlushContext (Part 3, 28.4); the handle is a parameter there."""
    return command(Code.FLUSH_CONTEXT, parameters=handle.to_bytes(4))


def evict_control(hierarchy: int, handle: int, persistent: int) -> bytes:
    """TPM2_EvictControl (Part 3, 28.5): make a loaded object persistent."""
    return command(Code.EVICT_CONTROL, (hierarchy, handle), persistent.to_bytes(4), [password()])


def read_clock() -> bytes:
    """TPM2_ReadClock (Part 3, 29.1)."""
    return command(Code.READ_CLOCK)


def clock_rate_adjust(hierarchy: int) -> bytes:
    """TPM2_ClockRateAdjust (Part 3, 29.3) by nothing, TPM_CLOCK_NO_CHANGE."""
    return command(Code.CLOCK_RATE_ADJUST, (hierarchy,), b"\x00", [password()])


def parse_counts(clock: Response) -> tuple[int, int]:
    """Read resetCount and restartCount of ReadClock (TPMS_TIME_INFO, Part 2, 10.11.6)."""
    _, _, reset_count, restart_count, _ = struct.unpack(">QQIIB", clock.parameters)
    return reset_count, restart_count


def get_capability(capability: int, first: int, count: int) -> bytes:
    """TPM2_GetCapability (Part 3, 30.2)."""
    return command(Code.GET_CAPABILITY, parameters=struct.pack(">III", capability, first, count))


def nv_public(index: int, attributes: int, size: int, policy_digest: bytes = b"") -> bytes:
    """Write a TPMS_NV_PUBLIC (Part 2, 13.5) with SHA-256 names."""
    return struct.pack(">IHI", index, SHA256, attributes) + sized(policy_digest) + size.to_bytes(2)


def nv_name(public: bytes) -> bytes:
    """Give the Name of an NV index (Part 1, 16): its attributes are part of it."""
    return SHA256.to_bytes(2) + hashlib.sha256(public).digest()


def nv_define_space(hierarchy: int, public: bytes, auth: bytes = b"") -> bytes:
    """TPM2_NV_DefineSpace (Part 3, 31.3)."""
    fields = sized(auth) + sized(public)
    return command(Code.NV_DEFINE_SPACE, (hierarchy,), fields, [password()])


def nv_write(authority: int, index: int, data: bytes, offset: int, authorization: bytes) -> bytes:
    """TPM2_NV_Write (Part 3, 31.7)."""
    fields = sized(data) + offset.to_bytes(2)
    return command(Code.NV_WRITE, (authority, index), fields, [authorization])


def nv_write_lock(authority: int, index: int, authorization: bytes) -> bytes:
    """TPM2_NV_WriteLock (Part 3, 31.11)."""
    return command(Code.NV_WRITE_LOCK, (authority, index), b"", [authorization])


def nv_read(authority: int, index: int, size: int, offset: int, authorization: bytes) -> bytes:
    """TPM2_NV_Read (Part 3, 31.13)."""
    fields = struct.pack(">HH", size, offset)
    return command(Code.NV_READ, (authority, index), fields, [authorization])
