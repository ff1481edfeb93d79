"""Pure: what one command may not do, by its rights alone; who owns which handle is the caller's.

The broker asks for one client, the gate in the Manager for all of them together, each in its own
process: the broker may be taken over, and the gate holds.
"""

from __future__ import annotations

from typing import Final

from tandem.wire.broker_rights import EK_CERTIFICATES, Range, Rights
from tandem.wire.tpm_commands import ENDORSEMENT, HEADER, NULL, response
from tandem.wire.tpm_requests import (
    BAD_TAG,
    COMMAND_CODE,
    HANDLE_SIZE,
    HMAC_SESSIONS,
    POLICY_SESSIONS,
    Request,
    TpmBytes,
)
from tandem.wire.tpm_table import Kind, Place, Rule

RESOURCE_MANAGER: Final = 0x000B0000  # TSS2_RESMGR_TPM_RC_LAYER: a TPM's code, given before the TPM
ALLOWED: Final = 0
TPM12_RESPONSE: Final = 0x00C4  # TPM_ST_RSP_COMMAND

HANDLE: Final = 0x08B  # TPM_RC (Part 2, 6.6); format one: a position is added
ATTRIBUTES: Final = 0x082
SIZE: Final = 0x095
AUTH_CONTEXT: Final = 0x145
LOCALITY: Final = 0x907
INTEGRITY: Final = 0x09F
SESSION_HANDLES: Final = 0x905
REFERENCE_H0: Final = 0x910
REFERENCE_S0: Final = 0x918
_PARAMETER: Final = 0x040

PCR: Final = 0x00  # TPM_HT (Part 2, 7.2)
NV: Final = 0x01
PERMANENT: Final = 0x40
TRANSIENT: Final = 0x80
PERSISTENT_OBJECT: Final = 0x81
SESSIONS: Final = (HMAC_SESSIONS, POLICY_SESSIONS)

_POLICY_DELETE: Final = 1 << 10  # TPMA_NV (Part 2, 13.4)
_PLATFORM_CREATE: Final = 1 << 30


def handle_error(place: int, code: int = HANDLE) -> int:
    """Give a response code about the handle at `place`, counted from 0."""
    return code | (place + 1) << 8


def parameter_error(place: int, code: int) -> int:
    """Give a response code about the parameter at `place`, counted from 0."""
    return code | _PARAMETER | (place + 1) << 8


def refused(code: int) -> bytes:
    """Write the response of a resource manager that did not ask the TPM.

    To a tag of TPM 1.2 a TPM answers in the form of TPM 1.2 (Part 3, 5.2).
    """
    if code == BAD_TAG:
        return HEADER.pack(TPM12_RESPONSE, HEADER.size, BAD_TAG)
    return response(RESOURCE_MANAGER | code)


def refusal(request: Request, rights: Rights) -> int:
    """Give the response code of what the rights do not cover, `ALLOWED` where they do.

    Transient objects and sessions are left to the caller, who knows whose they are.  Raises
    `BadRequest` where parameters that have to be read are broken.
    """
    if request.row.rule is Rule.REFUSE:
        return COMMAND_CODE
    for number, (place, handle) in enumerate(zip(request.row.places, request.handles, strict=True)):
        code = _of_handle(request, place, handle, rights)
        if code:
            return code if code == LOCALITY else handle_error(number, code)
    return _of_condition(request, rights)


def is_granted(handle: int, rights: Rights) -> bool:
    """Whether a persistent object or an NV index may be seen at all."""
    if handle >> 24 == NV:
        return _within(handle, rights.nv) or handle in EK_CERTIFICATES
    return _within(handle, rights.persistent) or handle in rights.shared


def _of_handle(request: Request, place: Place, handle: int, rights: Rights) -> int:
    kind = handle >> 24
    if kind == PERMANENT:
        consents = place.kind is Kind.PRIVACY and handle == ENDORSEMENT
        granted = handle in rights.hierarchies or handle == NULL or consents
    elif kind == TRANSIENT:
        granted = place.kind in (Kind.OBJECT, Kind.SEQUENCE, Kind.AUTHORITY)
    elif kind in SESSIONS:
        granted = place.kind is Kind.SESSION or request.row.rule is Rule.VIRTUAL
    elif kind == PERSISTENT_OBJECT:
        granted = _within(handle, rights.persistent) or handle in rights.shared
    elif kind == NV:
        granted = _within(handle, rights.nv) or (place.reads and handle in EK_CERTIFICATES)
    else:
        registers = rights.extend if request.row.rule is Rule.EXTEND else frozenset()
        return ALLOWED if handle in registers else LOCALITY if kind == PCR else HANDLE
    return ALLOWED if granted else HANDLE


def _of_condition(request: Request, rights: Rights) -> int:
    match request.row.rule:
        case Rule.DEFINE:
            return _of_definition(request.parameters, rights)
        case Rule.PERSIST:
            return _of_persistence(request, rights)
        case Rule.QUICK:
            full = request.parameters.integer(1)
            return COMMAND_CODE if full else ALLOWED
        case Rule.REGISTERS if not rights.read_registers:
            return COMMAND_CODE
        case Rule.FILTER | Rule.VIRTUAL | Rule.STARTED if request.authorizations:
            return AUTH_CONTEXT
    if request.row.creation is not None and not rights.read_registers:
        return _of_creation(request, request.row.creation)
    return ALLOWED


def _of_definition(parameters: TpmBytes, rights: Rights) -> int:
    """Judge TPM2_NV_DefineSpace (Part 3, 31.3): authValue, TPM2B_NV_PUBLIC."""
    parameters.sized()
    public = TpmBytes(parameters.sized())
    index = public.integer(HANDLE_SIZE)
    public.integer(2)
    attributes = public.integer(4)
    public.sized()
    if not _within(index, rights.nv):
        return parameter_error(1, HANDLE)
    if attributes & (_PLATFORM_CREATE | _POLICY_DELETE):
        return parameter_error(1, ATTRIBUTES)
    return parameter_error(1, SIZE) if public.integer(2) > rights.nv_size else ALLOWED


def _of_persistence(request: Request, rights: Rights) -> int:
    """Judge TPM2_EvictControl (Part 3, 28.5): who takes a key away names it twice."""
    handle, kept_at = request.handles[1], request.parameters.integer(HANDLE_SIZE)
    if not _within(kept_at, rights.persistent):
        return parameter_error(0, HANDLE)
    own = handle >> 24 == TRANSIENT or handle == kept_at
    return ALLOWED if own else handle_error(1)


def _of_creation(request: Request, before: int) -> int:
    """Let creation data have no digest of registers for who may not read them."""
    parameters = request.parameters
    for _ in range(before):
        parameters.sized()
    return parameter_error(before, ATTRIBUTES) if parameters.integer(4) else ALLOWED


def _within(handle: int, ranges: tuple[Range, ...]) -> bool:
    return any(handle in each for each in ranges)
