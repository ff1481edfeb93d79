"""Pure: TPM2_GetCapability (Part 3, 30.2) of handles, read and written, without those of others."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final

from tandem.wire.tpm_commands import (
    CAPABILITY_HANDLES,
    CAPABILITY_PROPERTIES,
    HEADER,
    NO_SESSIONS,
    get_capability,
)
from tandem.wire.tpm_requests import HMAC_SESSIONS, POLICY_SESSIONS, Request, TpmBytes

HANDLES_MOST: Final = 254  # MAX_CAP_HANDLES: (1,024 - 8) / 4 (Part 2, 10.8.1)
PAGES_MOST: Final = 64  # more handles than any TPM has room for
NUMBER: Final = 0x00FFFFFF  # of a handle, without its kind
VENDOR: Final = 0x100  # TPM_CAP_VENDOR_PROPERTY (Part 2, 6.12)

Execute = Callable[[bytes], bytes]


def parse_question(request: Request) -> tuple[int, int, int]:
    """Read capability, first property and how many are wanted."""
    parameters = request.parameters
    return parameters.integer(4), parameters.integer(4), parameters.integer(4)


def capability(kind: int, content: bytes, *, more: bool) -> bytes:
    """Write the response with a TPMS_CAPABILITY_DATA."""
    body = struct.pack(">BI", more, kind) + content
    return HEADER.pack(NO_SESSIONS, HEADER.size + len(body), 0) + body


def handles_answer(found: Iterable[int], first: int, count: int) -> bytes:
    """Write the response that lists those of `found` from `first` on that are of its kind."""
    kind = first >> 24
    listed = sorted(handle for handle in found if handle >= first and handle >> 24 == kind)
    return _listed(listed, count)


def sessions_answer(found: Iterable[int], first: int, count: int) -> bytes:
    """Write the response that lists sessions; HMAC and policy sessions share their numbers."""
    at = first & NUMBER
    return _listed(sorted((each for each in found if each & NUMBER >= at), key=_number), count)


def same_session(handle: int, found: Iterable[int]) -> int | None:
    """Give the session that a handle means: a saved one may be named as either kind."""
    if handle >> 24 not in (HMAC_SESSIONS, POLICY_SESSIONS):
        return None
    return next((each for each in found if _number(each) == _number(handle)), None)


def _number(session: int) -> int:
    return session & NUMBER


def _listed(listed: list[int], count: int) -> bytes:
    shown = listed[: min(count, HANDLES_MOST)]
    content = struct.pack(f">I{len(shown)}I", len(shown), *shown)
    return capability(CAPABILITY_HANDLES, content, more=len(shown) < len(listed))


def handles_of(execute: Execute, kind: int) -> list[int] | bytes:
    """Ask the TPM for every handle of a kind (its first octet); its response where it fails."""
    found: list[int] = []
    first = kind << 24
    for _ in range(PAGES_MOST):
        response = execute(get_capability(CAPABILITY_HANDLES, first, HANDLES_MOST))
        reading = TpmBytes(response, HEADER.size)
        if response[6 : HEADER.size] != bytes(4):
            return response
        more, _, count = reading.integer(1), reading.integer(4), reading.integer(4)
        page = [reading.integer(4) for _ in range(count)]
        found += page
        if not more or not page:
            break
        first = page[-1] + 1
    return found


def properties_of(execute: Execute, first: int, count: int) -> dict[int, int]:
    """Ask the TPM for properties (Part 2, 6.13), those that it has of them."""
    response = execute(get_capability(CAPABILITY_PROPERTIES, first, count))
    if response[6 : HEADER.size] != bytes(4):
        return {}
    reading = TpmBytes(response, HEADER.size + 5)
    found = [(reading.integer(4), reading.integer(4)) for _ in range(reading.integer(4))]
    return {each: value for each, value in found if first <= each < first + count}
