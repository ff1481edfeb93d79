"""TPM2_GetCapability as one client sees it: its own handles and counts, and the commands it has."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final

from tandem.wire.broker_rights import Rights
from tandem.wire.broker_rules import NV, PERSISTENT_OBJECT, is_granted, parameter_error, refused
from tandem.wire.tpm_capabilities import (
    HANDLES_MOST,
    VENDOR,
    capability,
    handles_answer,
    handles_of,
    parse_question,
    sessions_answer,
)
from tandem.wire.tpm_commands import (
    CAPABILITY_COMMANDS,
    CAPABILITY_HANDLES,
    CAPABILITY_PROPERTIES,
    HEADER,
    get_capability,
)
from tandem.wire.tpm_requests import VALUE, Request, TpmBytes
from tandem.wire.tpm_table import TABLE, Rule

COMMAND_NUMBER: Final = 0x2000FFFF  # TPMA_CC (Part 2, 8.9): vendor bit and command index
CONTENT: Final = HEADER.size + 5  # after moreData and the capability

NV_INDICES: Final = 0x202  # TPM_PT_HR_NV_INDEX and what follows it (Part 2, 6.13)
LOADED: Final = 0x203
LOADED_LEFT: Final = 0x204
ACTIVE: Final = 0x205
ACTIVE_LEFT: Final = 0x206
TRANSIENT_LEFT: Final = 0x207
PERSISTENT: Final = 0x208
PERSISTENT_LEFT: Final = 0x209
OF_OTHERS: Final = (0x20A, 0x20B)  # NV counters: what would tell of others is left out
COUNTS: Final = range(NV_INDICES, 0x20C)

Execute = Callable[[bytes], bytes]


class View:
    """What one client holds, as far as capabilities tell of it."""

    def __init__(
        self,
        rights: Rights,
        *,
        objects: Iterable[int],
        sessions: Iterable[int],
        saved: Iterable[int],
    ) -> None:
        self.rights = rights
        self.objects = tuple(objects)
        self.sessions = tuple(sessions)
        self.saved = tuple(saved)

    def answer(self, request: Request, execute: Execute) -> bytes:
        """Give the response to one TPM2_GetCapability."""
        kind, first, count = parse_question(request)
        if kind >= VENDOR:
            return refused(parameter_error(0, VALUE))
        match kind:
            case _ if kind == CAPABILITY_HANDLES:
                return self._handles(request, execute, first, count)
            case _ if kind == CAPABILITY_COMMANDS:
                return _commands(execute, first, count)
            case _ if kind == CAPABILITY_PROPERTIES:
                return self._properties(execute(request.data), execute)
            case _:
                return execute(request.data)

    def _handles(self, request: Request, execute: Execute, first: int, count: int) -> bytes:
        match first >> 24:
            case 0x80:
                return handles_answer(self.objects, first, count)
            case 0x02:
                return sessions_answer(self.sessions, first, count)
            case 0x03:
                return sessions_answer(self.saved, first, count)
            case 0x01 | 0x81 as of_kind:
                found = handles_of(execute, of_kind)
                if isinstance(found, bytes):
                    return found
                return handles_answer(self._granted(found), first, count)
            case _:
                return execute(request.data)

    def _properties(self, response: bytes, execute: Execute) -> bytes:
        if response[6 : HEADER.size] != bytes(4):
            return response
        more, pairs = response[HEADER.size] != 0, _pairs(response)
        if any(each in COUNTS for each in pairs):
            pairs |= self._counts(execute)
        shown = {each: pairs[each] for each in sorted(pairs) if each not in OF_OTHERS}
        shown = {each: shown[each] for each in shown if each in _pairs(response)}
        content = struct.pack(">I", len(shown))
        content += b"".join(struct.pack(">II", *pair) for pair in shown.items())
        return capability(CAPABILITY_PROPERTIES, content, more=more)

    def _counts(self, execute: Execute) -> dict[int, int]:
        """Give what the TPM says of slots and memory, as far as it is this client's."""
        indices = len(self._found(execute, NV))
        persistent = len(self._found(execute, PERSISTENT_OBJECT))
        granted = sum(each.last - each.first + 1 for each in self.rights.persistent)
        held = len(self.sessions) + len(self.saved)
        left = max(0, self.rights.sessions - held)
        return {
            NV_INDICES: indices,
            LOADED: len(self.sessions),
            LOADED_LEFT: left,
            ACTIVE: held,
            ACTIVE_LEFT: left,
            TRANSIENT_LEFT: max(0, self.rights.objects - len(self.objects)),
            PERSISTENT: persistent,
            PERSISTENT_LEFT: max(0, granted - persistent),
        }

    def _found(self, execute: Execute, kind: int) -> list[int]:
        found = handles_of(execute, kind)
        return [] if isinstance(found, bytes) else self._granted(found)

    def _granted(self, found: Iterable[int]) -> list[int]:
        return [handle for handle in found if is_granted(handle, self.rights)]


def _pairs(response: bytes) -> dict[int, int]:
    reading = TpmBytes(response, CONTENT)
    return {reading.integer(4): reading.integer(4) for _ in range(reading.integer(4))}


def _commands(execute: Execute, first: int, count: int) -> bytes:
    """List the commands that a client may ever give."""
    response = execute(get_capability(CAPABILITY_COMMANDS, first, HANDLES_MOST))
    if response[6 : HEADER.size] != bytes(4):
        return response
    reading = TpmBytes(response, CONTENT)
    found = [reading.integer(4) for _ in range(reading.integer(4))]
    allowed = [each for each in found if _is_allowed(each & COMMAND_NUMBER)]
    shown = allowed[:count]
    content = struct.pack(f">I{len(shown)}I", len(shown), *shown)
    return capability(CAPABILITY_COMMANDS, content, more=len(shown) < len(allowed))


def _is_allowed(code: int) -> bool:
    row = TABLE.get(code)
    return row is not None and row.rule is not Rule.REFUSE
