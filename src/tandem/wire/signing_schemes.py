"""Pure: which commitment a command signs with, and which one a response opened.

TPM2_Commit and TPM2_EC_Ephemeral give a counter (Part 1, C.2.2); an ECDAA signature or a two-phase
key exchange names it, and uses it up.
"""

from __future__ import annotations

from typing import Final

from tandem.wire.tpm_commands import HEADER, SESSIONS
from tandem.wire.tpm_requests import Request

ECDAA: Final = 0x001A  # TPM_ALG_ID (Part 2, 6.3)
ZGEN_2PHASE: Final = 0x18D
COUNTER_SIZE: Final = 2


def commitment_of(request: Request) -> int | None:
    """Give the counter that a command uses up, None where it uses none."""
    if request.row.scheme is None:
        return None
    parameters = request.parameters
    for _ in range(request.row.scheme):
        parameters.sized()
    scheme = parameters.integer(2)
    if request.row.code == ZGEN_2PHASE:
        return parameters.integer(COUNTER_SIZE)
    if scheme != ECDAA:
        return None
    parameters.integer(2)  # the hash of TPMS_SCHEME_ECDAA (Part 2, 11.2.1.4)
    return parameters.integer(COUNTER_SIZE)


def commitment_made(response: bytes) -> int:
    """Give the counter of a successful response: its last parameter."""
    end = len(response)
    if int.from_bytes(response[:2]) == SESSIONS:
        start = HEADER.size + 4
        end = start + int.from_bytes(response[HEADER.size : start])
    return int.from_bytes(response[end - COUNTER_SIZE : end])
