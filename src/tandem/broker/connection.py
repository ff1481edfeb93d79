"""One client's TPM, made of the one that all share: handles, contexts, and what needs loading.

A command is parsed and judged by the client's rights, what it names is brought into the TPM, its
handles are exchanged for those of the gate, and the answer's handle is exchanged back.  What a
client saves with TPM2_ContextSave only the same client loads again, here or on a later connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from tandem.broker.capabilities import View
from tandem.broker.client import Client, Holdings, Object, Session
from tandem.broker.residency import (
    OBJECTS_MOST,
    SESSIONS_MOST,
    NotLoaded,
    room_for_objects,
)
from tandem.wire import auth_failures
from tandem.wire.broker_rules import (
    HANDLE,
    INTEGRITY,
    PERSISTENT_OBJECT,
    REFERENCE_H0,
    REFERENCE_S0,
    RESOURCE_MANAGER,
    SESSION_HANDLES,
    SESSIONS,
    TRANSIENT,
    parameter_error,
    refusal,
    refused,
)
from tandem.wire.nv_wear import NV_RATE
from tandem.wire.sealed_context import Context, parse_context
from tandem.wire.signing_schemes import commitment_made, commitment_of
from tandem.wire.tpm_commands import HEADER, NULL, Code, Rc, response
from tandem.wire.tpm_requests import (
    AUDITS,
    CONTINUES,
    HANDLE_SIZE,
    VALUE,
    BadRequest,
    Request,
    code_of,
    parse_request,
)
from tandem.wire.tpm_table import Created, Rule

if TYPE_CHECKING:
    from tandem.broker.broker import Broker

Held = TypeVar("Held", Object, Session)
BUSY: Final = 0x922  # TPM_RC_RETRY
SEQUENCE: Final = 0x80000001  # savedHandle of a sequence's context (Part 2, 14.5)
_EXEMPT: Final = 1  # a fact that a saved context keeps


class Connection:
    """A client's connection; `execute` gives a TPM response to whatever is sent."""

    def __init__(self, broker: Broker, client: Client) -> None:
        self.client = client
        self.holdings = Holdings()
        self._broker = broker
        self._residency = broker.residency

    def execute(self, command: bytes) -> bytes:
        """Give the response to one command: the TPM's, or a refusal.

        Errors: `ManagerGone` alone.
        """
        try:
            request = parse_request(command)
            code = refusal(request, self.client.rights)
            return refused(code) if code else self._carry_out(request)
        except BadRequest as error:
            return refused(error.number)
        except NotLoaded as error:
            return error.response

    def waits(self, command: bytes) -> float:
        """Give the seconds that a command has to wait for another connection; 0: it may run."""
        return self._broker.waits(self, command)

    def close(self) -> None:
        """Flush what the connection holds; sessions that were put aside stay the client's."""
        for handle in list(self.holdings.objects):
            self._residency.flush_object(self._without(handle))
        for session in list(self.holdings.sessions.values()):
            self._flush_session(session)
        self._broker.exclusive_audit.let_go(self, self._broker.now())

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
                return self._view().answer(request, self._broker.execute)
            case _:
                return self._run(request)

    # Commands that the TPM runs

    def _run(self, request: Request) -> bytes:
        objects, sessions, persistent = self._named(request)
        code = self._not_now(request)
        if code:
            return refused(code)
        created = request.row.creates
        if created is Created.SESSION:
            self._make_room()
        makes_object = created is not None and created is not Created.SESSION
        most = room_for_objects(
            created=int(makes_object),
            persistent=persistent,
            temporary=int(request.row.creation is not None and not makes_object),
        )
        if sessions or created is Created.SESSION:
            self._residency.bring_sessions(
                sessions, SESSIONS_MOST - int(created is Created.SESSION)
            )
        if objects or most < OBJECTS_MOST:
            self._residency.bring_objects(objects, most)
        answer = self._broker.execute(self._translated(request))
        if code_of(answer) == Rc.OBJECT_MEMORY and most:
            self._residency.bring_objects(objects, 0)  # a TPM that needs more slots than others
            answer = self._broker.execute(self._translated(request))
        if not code_of(answer):
            return self._done(request, answer)
        self._lose(request, code_of(answer))
        if auth_failures.is_counted(code_of(answer)):
            self._broker.failures(self.client).add(self._broker.now())
        return answer

    def _named(self, request: Request) -> tuple[list[Object], list[Session], int]:
        """Find the objects and sessions that a command names, and count the persistent ones.

        Each comes once, however often it is named; what is not the connection's own is refused.
        """
        objects: dict[Object, None] = {}
        sessions: dict[Session, None] = {}
        persistent: set[int] = set()
        for number, handle in enumerate(request.handles):
            kind = handle >> 24
            if kind == TRANSIENT:
                objects[_own(self.holdings.objects, handle, REFERENCE_H0 + number)] = None
            elif kind in SESSIONS:
                sessions[_own(self.holdings.sessions, handle, REFERENCE_H0 + number)] = None
            elif kind == PERSISTENT_OBJECT:
                persistent.add(handle)
        for number, each in enumerate(request.authorizations):
            if not each.is_password:
                sessions[_own(self.holdings.sessions, each.handle, REFERENCE_S0 + number)] = None
        return list(objects), list(sessions), len(persistent)

    def _not_now(self, request: Request) -> int:
        """Refuse what goes beyond the client's share, or could lock the TPM for everybody."""
        protected = auth_failures.authorizes_protected(request, self.holdings.is_exempt)
        if protected and self._broker.failures(self.client).used_up(self._broker.now()):
            return auth_failures.LOCKOUT
        if request.row.wears and self._broker.writes(self.client).used_up(self._broker.now()):
            return NV_RATE
        if request.row.creates is Created.SESSION and self._broker.sessions.refuses(self.client):
            return SESSION_HANDLES
        if request.row.creates in (Created.OBJECT, Created.SEQUENCE):
            return 0 if self._broker.has_room(self.client) else Rc.OBJECT_MEMORY
        commitment, uid = commitment_of(request), self.client.uid
        if commitment is not None and not self._broker.commitments.is_of(commitment, uid):
            return parameter_error(request.row.scheme or 0, VALUE)
        return BUSY if self.waits(request.data) > 0 else 0

    def _make_room(self) -> None:
        """Let an old session of the client's own go where it starts one too many."""
        in_the_way = self._broker.sessions.in_the_way(self.client)
        if in_the_way is not None:
            self._flush_session(in_the_way)

    def _translated(self, request: Request) -> bytes:
        """Write the command as the gate knows the handles of objects."""
        return request.with_handles(tuple(self._real(handle) for handle in request.handles))

    def _real(self, handle: int) -> int:
        held = self.holdings.objects.get(handle)
        if held is None:
            return handle
        if held.real is None:
            raise NotLoaded(refused(REFERENCE_H0))
        return held.real

    def _lose(self, request: Request, code: int) -> None:
        """Note what the gate does not have any more: the Manager took its slot, and it was lost."""
        first = RESOURCE_MANAGER | REFERENCE_H0
        named = dict(enumerate(request.handles, first))
        first = RESOURCE_MANAGER | REFERENCE_S0
        named |= dict(enumerate((each.handle for each in request.authorizations), first))
        handle = named.get(code, NULL)
        if handle in self.holdings.objects:
            self._residency.forget_object(self.holdings.objects[handle])
        if handle in self.holdings.sessions:
            self._broker.forget_session(self.holdings.sessions[handle])

    def _done(self, request: Request, answer: bytes) -> bytes:
        """Take note of what a command made and ended, and give handles as the client knows them."""
        for each in request.authorizations:
            if not each.attributes & CONTINUES and not each.is_password:
                self._broker.forget_session(self.holdings.sessions[each.handle])
            elif each.attributes & AUDITS:
                self._broker.exclusive_audit.take(self, self._broker.now())
        if request.row.wears:
            self._broker.writes(self.client).spend()
        if request.row.ends is not None:
            self._residency.forget_object(self._without(request.handles[request.row.ends]))
        if request.row.rule is Rule.TURN or request.row.scheme is not None:
            self._commit(request, answer)
        return answer if request.row.creates is None else self._made(request, answer)

    def _commit(self, request: Request, answer: bytes) -> None:
        """Take note of a commitment that a command opened or used up."""
        now, uid = self._broker.now(), self.client.uid
        if request.row.rule is Rule.TURN:
            self._broker.commitments.add(commitment_made(answer), uid)
            self._broker.committing.take(uid, now)
        commitment = commitment_of(request)
        if commitment is not None:
            self._broker.commitments.use(commitment)
            if not self._broker.commitments.has(uid):
                self._broker.committing.let_go(uid, now)

    def _made(self, request: Request, answer: bytes) -> bytes:
        real = int.from_bytes(answer[HEADER.size : HEADER.size + HANDLE_SIZE])
        exempt = auth_failures.creates_exempt(request, self.holdings.is_exempt)
        if request.row.creates is Created.SESSION:
            session = Session(handle=real, uid=self.client.uid, holder=self, exempt=exempt)
            self._broker.add_session(session)
            self.holdings.sessions[real] = session
            self._residency.take_session(session)
            return answer
        made = Object(exempt=exempt, changes=request.row.creates is Created.SEQUENCE)
        self._residency.take_object(made, real)
        return _with_handle(answer, self._with(made))

    # Contexts

    def _save(self, handle: int) -> bytes:
        if handle >> 24 in SESSIONS:
            return self._put_aside(handle)
        held = self.holdings.objects.get(handle)
        if held is None:
            return refused(REFERENCE_H0)
        context = parse_context(self._residency.saved_object(held))
        return self._sealed(context, _EXEMPT if held.exempt else 0)

    def _put_aside(self, handle: int) -> bytes:
        """Save a session for the client: nothing is asked of the TPM before it needs the slot."""
        session = self.holdings.sessions.pop(handle, None)
        if session is None:
            return refused(REFERENCE_H0)
        number = self._broker.sessions.keep(session)
        return self._sealed(Context(sequence=number, handle=handle, hierarchy=NULL, blob=b""), 0)

    def _sealed(self, context: Context, facts: int) -> bytes:
        sealed = self._broker.seal.seal(context, owner=self.client.uid, facts=facts)
        return response(Rc.SUCCESS, sealed.encode())

    def _load(self, request: Request) -> bytes:
        context = parse_context(request.data[request.parameters_at :])
        opened = self._broker.seal.open(context, owner=self.client.uid)
        if opened is None:
            return refused(parameter_error(0, INTEGRITY))
        context, facts = opened
        if context.handle >> 24 in SESSIONS:
            return self._take_up(context)
        if not self._broker.has_room(self.client):
            return refused(Rc.OBJECT_MEMORY)
        loaded = Object(
            exempt=bool(facts & _EXEMPT),
            changes=context.handle == SEQUENCE,
            context=context.encode(),
        )
        return response(Rc.SUCCESS, self._with(loaded).to_bytes(HANDLE_SIZE))

    def _take_up(self, context: Context) -> bytes:
        session = self._broker.sessions.take_up(context.handle, context.sequence, self.client, self)
        if session is None:
            return refused(parameter_error(0, HANDLE))
        self.holdings.sessions[session.handle] = session
        return response(Rc.SUCCESS, session.handle.to_bytes(HANDLE_SIZE))

    def _flush(self, handle: int) -> bytes:
        if handle in self.holdings.objects:
            self._residency.flush_object(self._without(handle))
            return response(Rc.SUCCESS)
        session = self._broker.sessions.named(handle, self.client, self)
        if session is None:
            return refused(parameter_error(0, HANDLE))
        self._flush_session(session)
        return response(Rc.SUCCESS)

    # Holdings

    def _flush_session(self, session: Session) -> None:
        self._residency.flush_session(session)
        self._broker.forget_session(session)

    def _with(self, item: Object) -> int:
        self._broker.count_objects(self.client, 1)
        return self.holdings.add(item)

    def _without(self, handle: int) -> Object:
        self._broker.count_objects(self.client, -1)
        return self.holdings.objects.pop(handle)

    def _view(self) -> View:
        return View(
            self.client.rights,
            objects=self.holdings.objects,
            sessions=self.holdings.sessions,
            saved=(each.handle for each in self._broker.sessions.kept(self.client)),
        )


def _own(held: Mapping[int, Held], handle: int, code: int) -> Held:
    """Give what is held by a handle, or refuse with a code."""
    found = held.get(handle)
    if found is None:
        raise NotLoaded(refused(code))
    return found


def _with_handle(answer: bytes, handle: int) -> bytes:
    return (
        answer[: HEADER.size] + handle.to_bytes(HANDLE_SIZE) + answer[HEADER.size + HANDLE_SIZE :]
    )
