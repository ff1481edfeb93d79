"""What each control request means in each phase of a vTPM: a table, and pure decisions from it.

A vTPM serves one guest, once.  INIT may repeat until the guest's first successful Startup (SeaBIOS
causes two); after that it would reset PCR 0 to 15 under a live guest, so it ends the pair.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum, auto
from types import MappingProxyType
from typing import Final

from tandem.values import Locality
from tandem.wire.control import (
    Capability,
    Command,
    Request,
    Result,
    encode_refusal,
    encode_result,
)

CAPABILITIES: Final = Capability(sum(Capability))  # all that are named; no state blobs, no hashing
GUEST_LOCALITIES: Final = (Locality.GUEST, Locality.GUEST_LOADER)


class Phase(StrEnum):
    """Where a vTPM stands with its hypervisor."""

    STOPPED = auto()  # no INIT yet: guest commands fail without reaching the engine
    RUNNING = auto()  # initialized; the guest's first Startup is awaited
    STARTED = auto()  # the guest started its TPM, and lives
    HALTED = auto()  # stopped under a live guest: only the end can follow
    ENDED = auto()


class Act(StrEnum):
    """What the server does beside answering."""

    NOTHING = auto()
    CONNECT = auto()  # take the data connection that came with the request
    CANCEL = auto()  # cancel the command that the engine executes
    END = auto()  # the hypervisor asked for it
    END_RESET = auto()  # an INIT that would hide a reset


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the control channel has settled so far; buffer sizes are in bytes."""

    phase: Phase = Phase.STOPPED
    locality: int = Locality.GUEST
    connected: bool = False
    buffer_size: int
    smallest_buffer: int
    largest_buffer: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """The session that follows a request, its answer, and what else is to be done."""

    session: Session
    answer: bytes
    act: Act = Act.NOTHING


P, C, A = Phase, Command, Act
TABLE: Final[Mapping[tuple[Phase, Command], tuple[Phase, Act]]] = MappingProxyType({
    (P.STOPPED, C.INIT): (P.RUNNING, A.NOTHING),
    (P.STOPPED, C.STOP): (P.STOPPED, A.NOTHING),
    (P.STOPPED, C.SHUTDOWN): (P.ENDED, A.END),
    (P.RUNNING, C.INIT): (P.RUNNING, A.NOTHING),
    (P.RUNNING, C.STOP): (P.STOPPED, A.NOTHING),
    (P.RUNNING, C.SHUTDOWN): (P.ENDED, A.END),
    (P.RUNNING, C.CANCEL_TPM_CMD): (P.RUNNING, A.CANCEL),
    (P.STARTED, C.INIT): (P.ENDED, A.END_RESET),
    (P.STARTED, C.STOP): (P.HALTED, A.NOTHING),
    (P.STARTED, C.SHUTDOWN): (P.ENDED, A.END),
    (P.STARTED, C.CANCEL_TPM_CMD): (P.STARTED, A.CANCEL),
    (P.HALTED, C.INIT): (P.ENDED, A.END_RESET),
    (P.HALTED, C.STOP): (P.HALTED, A.NOTHING),
    (P.HALTED, C.SHUTDOWN): (P.ENDED, A.END),
})  # fmt: skip
MOVING: Final = frozenset(command for _, command in TABLE)
LIVE: Final = (Phase.RUNNING, Phase.STARTED)


def decide(session: Session, request: Request) -> Step:
    """Give what follows `request`; what no rule allows is refused with BAD_ORDINAL."""
    if request.command in MOVING:
        return _move(session, request)
    match request.command:
        case Command.GET_CAPABILITY:
            return Step(session=session, answer=encode_result(0, struct.pack(">I", CAPABILITIES)))
        case Command.SET_DATAFD:
            return _connect(session)
        case Command.SET_LOCALITY:
            return _set_locality(session, request.fields[0])
        case Command.SET_BUFFERSIZE:
            return _set_buffer_size(session, request.fields[0])
        case Command.GET_TPMESTABLISHED if session.phase in LIVE:
            # No guest has run a D-RTM of its own, and localities 3 and 4 are not the guest's.
            return Step(session=session, answer=encode_result(0, bytes(4)))
        case Command.RESET_TPMESTABLISHED:
            return _refuse(session, request, Result.BAD_LOCALITY)
        case _:
            return _refuse(session, request, Result.BAD_ORDINAL)


def starting(session: Session) -> Session | None:
    """Give the session of a guest whose first Startup begins, or None where none may begin now."""
    if session.phase is not Phase.RUNNING:
        return None
    return replace(session, phase=Phase.STARTED)


def not_started(session: Session) -> Session:
    """Give the session of a guest whose first Startup failed."""
    return replace(session, phase=Phase.RUNNING) if session.phase is Phase.STARTED else session


def _move(session: Session, request: Request) -> Step:
    row = TABLE.get((session.phase, request.command))
    if row is None:
        return _refuse(session, request, Result.BAD_ORDINAL)
    if request.command is Command.INIT and request.fields[0]:  # volatile state of a migration
        return _refuse(session, request, Result.FAIL)
    phase, act = row
    answer = encode_refusal(Command.INIT, Result.FAIL) if act is Act.END_RESET else encode_result(0)
    return Step(session=replace(session, phase=phase), answer=answer, act=act)


def _connect(session: Session) -> Step:
    if session.connected:  # one connection, ever
        return Step(session=session, answer=encode_refusal(Command.SET_DATAFD, Result.FAIL))
    return Step(session=replace(session, connected=True), answer=encode_result(0), act=Act.CONNECT)


def _set_locality(session: Session, locality: int) -> Step:
    if locality not in GUEST_LOCALITIES:
        refusal = encode_refusal(Command.SET_LOCALITY, Result.BAD_LOCALITY)
        return Step(session=session, answer=refusal)
    return Step(session=replace(session, locality=locality), answer=encode_result(0))


def _set_buffer_size(session: Session, wanted: int) -> Step:
    # Halted as well: QEMU asks before the INIT that ends the pair, which then has its name.
    if wanted and session.phase not in (Phase.STOPPED, Phase.HALTED):
        refusal = encode_refusal(Command.SET_BUFFERSIZE, Result.BAD_ORDINAL)
        return Step(session=session, answer=refusal)
    if wanted:
        size = max(session.smallest_buffer, min(wanted, session.largest_buffer))
        session = replace(session, buffer_size=size)
    sizes = (session.buffer_size, session.smallest_buffer, session.largest_buffer)
    return Step(session=session, answer=encode_result(0, struct.pack(">III", *sizes)))


def _refuse(session: Session, request: Request, result: Result) -> Step:
    return Step(session=session, answer=encode_refusal(request.command, result))
