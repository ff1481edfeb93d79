"""Brings objects and sessions into the TPM when a command needs them, and lets others leave.

Lazily: whatever is loaded stays until its slot is needed.  An object that was saved once and that
nothing changes is flushed without being saved again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from tandem.broker.client import Object, Session
from tandem.broker.slots import Slots
from tandem.wire.broker_rules import REFERENCE_H0, REFERENCE_S0, refused
from tandem.wire.sealed_context import parse_context
from tandem.wire.tpm_capabilities import properties_of
from tandem.wire.tpm_commands import HEADER, context_load, context_save, flush_context
from tandem.wire.tpm_requests import HANDLE_SIZE, code_of

OBJECTS_MOST: Final = 2  # what the gate lets in
SESSIONS_MOST: Final = 3
OBJECT_SLOTS: Final = 3  # TPM_PT_HR_TRANSIENT_MIN (Part 2, 6.13)
CONTEXT_GAP_MAX: Final = 0x114  # TPM_PT_CONTEXT_GAP_MAX
SMALLEST_GAP: Final = 0xFF  # Part 1, 30.6.2: contexts are numbered with 8 bits at least


class NotLoaded(Exception):
    """The TPM did not do what a command needed first; `response` is its answer."""

    def __init__(self, response: bytes) -> None:
        super().__init__(hex(code_of(response)))
        self.response = response


class Residency:
    """What is loaded, over one channel to the gate."""

    def __init__(self, execute: Callable[[bytes], bytes]) -> None:
        self._execute = execute
        self._objects: Slots[Object] = Slots()
        self._sessions: Slots[Session] = Slots()
        self._saved: dict[Session, None] = {}  # the one saved first comes first
        gap = properties_of(execute, CONTEXT_GAP_MAX, 1).get(CONTEXT_GAP_MAX, SMALLEST_GAP)
        self._gap = gap // 2

    # Objects

    def bring_objects(self, wanted: Collection[Object], most: int = OBJECTS_MOST) -> None:
        """Load what is wanted, and leave no more than `most` loaded with it."""
        for item in self._objects.leaving(wanted, most):
            self._unload(item)
        for item in wanted:
            if item.real is None:
                answer = self._done(context_load(self.saved_object(item)))
                item.real = int.from_bytes(answer[HEADER.size : HEADER.size + HANDLE_SIZE])
            if item.changes:
                item.context = b""
            self._objects.use(item)

    def take_object(self, item: Object, real: int) -> None:
        """Note a new object that a command left loaded."""
        item.real = real
        self._objects.use(item)

    def saved_object(self, item: Object) -> bytes:
        """Give the TPMS_CONTEXT of an object, which stays as it is."""
        if not item.context:
            if item.real is None:
                raise NotLoaded(refused(REFERENCE_H0))
            item.context = self._done(context_save(item.real))[HEADER.size :]
        return item.context

    def flush_object(self, item: Object) -> None:
        """Let go of an object for good."""
        if item.real is not None:
            self._execute(flush_context(item.real))
        self.forget_object(item)

    def forget_object(self, item: Object) -> None:
        """Note that an object is no longer in the TPM."""
        self._objects.remove(item)
        item.real = None

    def _unload(self, item: Object) -> None:
        """Save and flush an object; one that cannot be saved is lost, and holds nobody up."""
        with suppress(NotLoaded):
            self.saved_object(item)
        self.flush_object(item)

    # Sessions

    def bring_sessions(self, wanted: Collection[Session], most: int = SESSIONS_MOST) -> None:
        """Load what is wanted, and leave no more than `most` loaded with it."""
        for session in self._sessions.leaving(wanted, most):
            self._save(session)
        for session in wanted:
            if session.lost:
                raise NotLoaded(refused(REFERENCE_S0))
            if session.context:
                self._load(session)
            self._sessions.use(session)

    def take_session(self, session: Session) -> None:
        """Note a new session that a command left loaded."""
        self._sessions.use(session)

    def flush_session(self, session: Session) -> None:
        """Let go of a session for good; the handle of a lost one may be another's by now."""
        if not session.lost:
            self._execute(flush_context(session.handle))
        self.forget_session(session)

    def forget_session(self, session: Session) -> None:
        """Note that a session is no longer in the TPM."""
        self._sessions.remove(session)
        self._saved.pop(session, None)
        session.context = b""
        session.lost = True

    def _save(self, session: Session) -> None:
        """Save a session, and renew the oldest saved one before the TPM loses count of it.

        Each saved session has a number, and the TPM refuses to save another once the lowest one is
        too far behind (TPM_RC_CONTEXT_GAP; Part 1, 30.6.2).
        """
        self._put_out(session)
        oldest = next(iter(self._saved), session)
        if session.sequence - oldest.sequence > self._gap:
            with suppress(NotLoaded):  # it is lost, and its client is told when it names it
                self._load(oldest)
                self._put_out(oldest)

    def _put_out(self, session: Session) -> None:
        """Save a session; one that cannot be saved is flushed, for the slot is needed."""
        answer = self._execute(context_save(session.handle))
        if code_of(answer):
            self.flush_session(session)
            return
        session.context = answer[HEADER.size :]
        session.sequence = parse_context(session.context).sequence
        self._sessions.remove(session)
        self._saved[session] = None

    def _load(self, session: Session) -> None:
        answer = self._execute(context_load(session.context))
        if code_of(answer):
            self.flush_session(session)
            raise NotLoaded(answer)
        session.context = b""
        del self._saved[session]

    def _done(self, command: bytes) -> bytes:
        answer = self._execute(command)
        if code_of(answer):
            raise NotLoaded(answer)
        return answer


def room_for_objects(*, created: int, persistent: int, temporary: int) -> int:
    """Give how many objects may be loaded beside those that a command makes or names itself.

    A persistent object takes a slot while a command uses it, and so does what TPM2_Create makes.
    """
    return min(OBJECTS_MOST - created, OBJECT_SLOTS - created - persistent - temporary)
