"""The one door through which the broker reaches the pTPM, and what it never lets through.

The broker parses what everybody on the host sends, so the gate takes it for hostile: raw bytes come
in, and only a command of the table, on the broker's own transient objects and sessions, within the
rights that the host's administrator granted to anybody, goes on.  Whatever else is the TPM's stays
out of reach: the Manager's persistent keys, NV indices and hierarchy above all.

A handle of the broker's object is a number of the gate's, so the Manager can take every slot for a
while (`cleared`) and the broker sees nothing of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from tandem.values import Secret
from tandem.wire import auth_failures
from tandem.wire.auth_failures import AuthFailures
from tandem.wire.broker_rights import Rights
from tandem.wire.broker_rules import (
    HANDLE,
    INTEGRITY,
    REFERENCE_H0,
    REFERENCE_S0,
    SESSION_HANDLES,
    SESSIONS,
    TRANSIENT,
    handle_error,
    is_granted,
    parameter_error,
    refusal,
    refused,
)
from tandem.wire.nv_wear import NV_RATE, WriteBudget
from tandem.wire.sealed_context import ContextSeal, parse_context
from tandem.wire.tpm_capabilities import (
    NUMBER,
    VENDOR,
    handles_answer,
    handles_of,
    parse_question,
    properties_of,
    same_session,
    sessions_answer,
)
from tandem.wire.tpm_commands import (
    CAPABILITY_HANDLES,
    HEADER,
    TRANSIENT_FIRST,
    Code,
    Rc,
    context_load,
    context_save,
    flush_context,
    response,
)
from tandem.wire.tpm_requests import (
    CONTINUES,
    HANDLE_SIZE,
    VALUE,
    BadRequest,
    Request,
    code_of,
    parse_request,
)
from tandem.wire.tpm_table import Created, Kind, Row

OBJECTS_MOST: Final = 2  # loaded: no command needs more, and the third slot is the Manager's
SESSIONS_MOST: Final = 3  # loaded: TPM_PT_HR_LOADED_MIN (Part 2, 6.13)
ACTIVE_MOST: Final = 48  # of TPM_PT_ACTIVE_SESSIONS_MAX, 64: the rest is the Manager's

LOCKOUT_PROPERTIES: Final = 0x20E  # TPM_PT_LOCKOUT_COUNTER, _MAX_AUTH_FAIL, _LOCKOUT_INTERVAL
_EXEMPT: Final = 1  # a fact that a saved context keeps: no dictionary attack protection
_NOBODY: Final = 0  # contexts here have one owner
_BODY: Final = HEADER.size


@dataclass
class _Object:
    """A transient object or sequence of the broker's."""

    real: int  # the TPM's handle
    exempt: bool  # from dictionary attack protection
    context: bytes = b""  # as it was saved when the Manager last needed its slot


class Gate:
    """The broker's commands, checked and passed on; one gate for each broker."""

    def __init__(
        self,
        transceive: Callable[[bytes], bytes],
        *,
        rights: Rights,
        root_name: bytes,
        writes: WriteBudget,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transceive = transceive
        self._rights = rights
        self._root_name = root_name
        self._now = now
        self._seal = ContextSeal(Secret(os.urandom(32)))
        self._objects: dict[int, _Object] = {}
        # A number comes back after 2^24 others: one that was lost never means another's object.
        self._numbers = cycle(range(TRANSIENT_FIRST, TRANSIENT_FIRST + NUMBER))
        self._loaded: set[int] = set()  # sessions
        self._saved: set[int] = set()
        self._guessable: set[int] = set()  # sessions bound to what the TPM counts guesses at
        self._failures = self._counted_failures()
        self._writes = writes
        self._cleared = 0

    def execute(self, command: bytes) -> bytes:
        """Give the response to one command of the broker's, from the TPM or a refusal.

        Errors: `PtpmFailed` where the pTPM is gone.
        """
        try:
            request = parse_request(command)
            code = self._refusal(request)
            return refused(code) if code else self._carry_out(request)
        except BadRequest as error:
            return refused(error.number)

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """Leave every slot for objects and sessions to the Manager for a while."""
        self._cleared += 1
        sessions: Mapping[int, bytes] = {}
        try:
            if self._cleared == 1:
                sessions = self._park()
            yield
        finally:
            self._cleared -= 1
            if not self._cleared:
                self._unpark(sessions)

    def close(self) -> None:
        """Flush whatever the broker left."""
        for held in self._objects.values():
            self._transceive(flush_context(held.real))
        for session in self._loaded | self._saved:
            self._transceive(flush_context(session))
        self._objects.clear()
        self._loaded.clear()
        self._saved.clear()

    # What is refused

    def _refusal(self, request: Request) -> int:
        code = refusal(request, self._rights)
        if code:
            return code
        places = zip(request.row.places, request.handles, strict=True)
        for number, (place, handle) in enumerate(places):
            if place.kind is Kind.SESSION and handle not in self._loaded:
                return REFERENCE_H0 + number
            if handle >> 24 == TRANSIENT and handle not in self._objects:
                return REFERENCE_H0 + number
        for number, authorization in enumerate(request.authorizations):
            if not authorization.is_password and authorization.handle not in self._loaded:
                return REFERENCE_S0 + number
        if request.row.wears and self._writes.used_up(self._now()):
            return NV_RATE
        return self._no_room(request.row.creates) or self._locked(request)

    def _no_room(self, created: Created | None) -> int:
        match created:
            case Created.SESSION if len(self._loaded) >= SESSIONS_MOST:
                return Rc.SESSION_MEMORY
            case Created.SESSION if len(self._loaded) + len(self._saved) >= ACTIVE_MOST:
                return SESSION_HANDLES
            case Created.OBJECT | Created.SEQUENCE if len(self._objects) >= OBJECTS_MOST:
                return Rc.OBJECT_MEMORY
        return 0

    def _locked(self, request: Request) -> int:
        """Refuse what could count as the failure that locks the TPM for its owner, too."""
        counts = auth_failures.authorizes_protected(request, self._is_exempt)
        used_up = counts and self._failures.used_up(self._now())
        return auth_failures.LOCKOUT if used_up else 0

    def _is_exempt(self, handle: int) -> bool:
        held = self._objects.get(handle)
        return handle not in self._guessable if held is None else held.exempt

    def _counted_failures(self) -> AuthFailures:
        """Take over the TPM's own count, and stop one before it would lock."""
        found = properties_of(self._transceive, LOCKOUT_PROPERTIES, 3)
        counted, most, seconds = (found.get(LOCKOUT_PROPERTIES + at, 0) for at in range(3))
        return AuthFailures(
            allowance=max(0, most - 1), recovery=seconds, counted=counted, now=self._now()
        )

    # What is carried out

    def _carry_out(self, request: Request) -> bytes:
        match request.row.code:
            case Code.STARTUP:
                return response(Rc.INITIALIZE)
            case Code.CONTEXT_SAVE:
                return self._save(request.handles[0])
            case Code.CONTEXT_LOAD:
                return self._load(request)
            case Code.FLUSH_CONTEXT:
                return self._flush(request.parameters.integer(HANDLE_SIZE))
            case Code.GET_CAPABILITY:
                return self._capability(request)
            case _:
                return self._forward(request)

    def _forward(self, request: Request) -> bytes:
        exempt = auth_failures.creates_exempt(request, self._is_exempt)
        real = tuple(
            self._objects[handle].real if handle >> 24 == TRANSIENT else handle
            for handle in request.handles
        )
        answer = self._transceive(request.with_handles(real))
        code = code_of(answer)
        if code:
            if auth_failures.is_counted(code):
                self._failures = self._counted_failures()
            return answer
        if request.row.wears:
            self._writes.spend()
        for each in request.authorizations:
            if not each.attributes & CONTINUES:
                self._loaded.discard(each.handle)
        if request.row.ends is not None:
            self._objects.pop(request.handles[request.row.ends], None)
        return answer if request.row.creates is None else self._keep(request.row, answer, exempt)

    def _keep(self, row: Row, answer: bytes, exempt: bool) -> bytes:
        """Take note of a new object or session; one that is the Manager's is flushed again."""
        created = int.from_bytes(answer[_BODY : _BODY + HANDLE_SIZE])
        if row.creates is Created.SESSION:
            self._loaded.add(created)
            (self._guessable.discard if exempt else self._guessable.add)(created)
            return answer
        if self._root_name in answer:
            self._transceive(flush_context(created))
            return refused(handle_error(0))
        return self._numbered(created, answer, exempt)

    def _numbered(self, real: int, answer: bytes, exempt: bool) -> bytes:
        number = next(each for each in self._numbers if each not in self._objects)
        self._objects[number] = _Object(real, exempt)
        return answer[:_BODY] + number.to_bytes(HANDLE_SIZE) + answer[_BODY + HANDLE_SIZE :]

    def _save(self, handle: int) -> bytes:
        is_session = handle >> 24 in SESSIONS
        if not is_session and handle not in self._objects:
            return refused(handle_error(0))
        if is_session and handle not in self._loaded:
            return refused(REFERENCE_H0)
        held = None if is_session else self._objects[handle]
        answer = self._transceive(context_save(handle if held is None else held.real))
        if code_of(answer):
            return answer
        if is_session:
            self._loaded.remove(handle)
            self._saved.add(handle)
        facts = _EXEMPT if held is not None and held.exempt else 0
        sealed = self._seal.seal(parse_context(answer[_BODY:]), owner=_NOBODY, facts=facts)
        return response(Rc.SUCCESS, sealed.encode())

    def _load(self, request: Request) -> bytes:
        context = parse_context(request.data[request.parameters_at :])
        opened = self._seal.open(context, owner=_NOBODY)
        if opened is None:
            return refused(parameter_error(0, INTEGRITY))
        context, facts = opened
        is_session = context.handle >> 24 in SESSIONS
        if is_session and context.handle not in self._saved:
            return refused(parameter_error(0, HANDLE))
        no_room = self._no_room(None if is_session else Created.OBJECT)
        if is_session and len(self._loaded) >= SESSIONS_MOST:
            no_room = Rc.SESSION_MEMORY
        if no_room:
            return refused(no_room)
        answer = self._transceive(context_load(context.encode()))
        if code_of(answer):
            return answer
        if is_session:
            self._saved.remove(context.handle)
            self._loaded.add(context.handle)
            return answer
        real = int.from_bytes(answer[_BODY : _BODY + HANDLE_SIZE])
        return self._numbered(real, answer, bool(facts & _EXEMPT))

    def _flush(self, handle: int) -> bytes:
        session = same_session(handle, self._loaded | self._saved)
        if session is not None:
            self._loaded.discard(session)
            self._saved.discard(session)
            return self._transceive(flush_context(session))
        held = self._objects.pop(handle, None)
        if held is None:
            return refused(parameter_error(0, HANDLE))
        return self._transceive(flush_context(held.real))

    def _capability(self, request: Request) -> bytes:
        """Answer what the TPM has and can, without a handle that is not the broker's."""
        kind, first, count = parse_question(request)
        if kind >= VENDOR:
            return refused(parameter_error(0, VALUE))
        if kind != CAPABILITY_HANDLES:
            return self._transceive(request.data)
        match first >> 24:
            case 0x80:
                return handles_answer(self._objects, first, count)
            case 0x02:
                return sessions_answer(self._loaded, first, count)
            case 0x03:
                return sessions_answer(self._saved, first, count)
            case 0x01 | 0x81 as of_kind:
                found = handles_of(self._transceive, of_kind)
                if isinstance(found, bytes):
                    return found
                granted = [handle for handle in found if is_granted(handle, self._rights)]
                return handles_answer(granted, first, count)
            case _:
                return self._transceive(request.data)

    # Room for the Manager

    def _park(self) -> dict[int, bytes]:
        """Save and flush all that is loaded; gives the contexts of sessions."""
        for handle, held in list(self._objects.items()):
            answer = self._transceive(context_save(held.real))
            self._transceive(flush_context(held.real))
            if code_of(answer):
                del self._objects[handle]  # the broker is told when it names it next
            held.context = answer[_BODY:]
        contexts = {}
        for session in list(self._loaded):
            answer = self._transceive(context_save(session))
            if code_of(answer):
                self._transceive(flush_context(session))
                self._loaded.remove(session)
            else:
                contexts[session] = answer[_BODY:]
        return contexts

    def _unpark(self, contexts: Mapping[int, bytes]) -> None:
        """Load again what `_park` saved, under the handles that the broker knows."""
        for handle, held in list(self._objects.items()):
            answer = self._transceive(context_load(held.context))
            if code_of(answer):
                del self._objects[handle]
            held.real = int.from_bytes(answer[_BODY : _BODY + HANDLE_SIZE])
        for session, context in contexts.items():
            if code_of(self._transceive(context_load(context))):
                self._loaded.remove(session)
                self._transceive(flush_context(session))
