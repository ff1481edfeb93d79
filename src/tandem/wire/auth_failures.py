"""Wrong authorizations counted as a TPM counts them, so that it is never driven into lockout.

A TPM locks everything that is under dictionary attack protection after `most` failures, for
everybody (Part 1, 19.8).  Whoever has used up an allowance is refused here first.  A session that
is bound to such an entity counts wherever it is used, be it for the audit of TPM2_GetRandom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tandem.wire.tpm_requests import HMAC_SESSIONS, POLICY_SESSIONS, Request, TpmBytes
from tandem.wire.tpm_table import Created

AUTH_FAIL: Final = 0x08E  # TPM_RC_AUTH_FAIL: the one failure that the TPM counts (Part 2, 6.6.3)
LOCKOUT: Final = 0x921
_FORMAT_ONE: Final = 0x080  # Part 2, 6.6.2: the rest of such a code says which session
_FORMAT_ONE_ERROR: Final = 0x0BF
_NO_DA: Final = 1 << 10  # TPMA_OBJECT (Part 2, 8.3)
_TYPE_AND_NAME_ALGORITHM: Final = 4
_KNOWN: Final = (0x80, HMAC_SESSIONS, POLICY_SESSIONS)  # TPM_HT (Part 2, 7.2): transient, too
_PERSISTING: Final = (0x01, 0x81)  # NV indices, persistent objects: taken for protected


def is_counted(response_code: int) -> bool:
    """Whether the TPM counted a failure with this answer."""
    return bool(response_code & _FORMAT_ONE) and response_code & _FORMAT_ONE_ERROR == AUTH_FAIL


class AuthFailures:
    """A count that falls by one for each `recovery` seconds, as failedTries does.

    A recovery of 0 s means that the TPM never locks.
    """

    def __init__(
        self, *, allowance: int, recovery: float, counted: int = 0, now: float = 0.0
    ) -> None:
        self._allowance = allowance
        self._recovery = recovery
        self._count = counted
        self._since = now

    def add(self, now: float) -> None:
        """Count one more."""
        self._count = self.count(now) + 1
        self._since = now

    def count(self, now: float) -> int:
        """Give how many count now."""
        if not self._count or not self._recovery:
            return 0
        return max(0, self._count - int((now - self._since) / self._recovery))

    def used_up(self, now: float) -> bool:
        """Whether one more is too many."""
        return bool(self._recovery) and self.count(now) >= self._allowance


def creates_exempt(request: Request, is_exempt: Callable[[int], bool]) -> bool:
    """Whether what a command creates is exempt; `is_exempt` knows transients and sessions.

    A session is what it is bound to, the second handle.  Sequences always are; an object's
    TPMT_PUBLIC, or the template of it, is the second parameter.
    """
    if request.row.creates is Created.SESSION:
        return not _is_protected(request.handles[1], is_exempt)
    if request.row.creates is not Created.OBJECT:
        return True
    parameters = request.parameters
    parameters.sized()
    public = TpmBytes(parameters.sized())
    public.take(_TYPE_AND_NAME_ALGORITHM)
    return bool(public.integer(4) & _NO_DA)


def authorizes_protected(request: Request, is_exempt: Callable[[int], bool]) -> bool:
    """Whether a wrong authorization of this command may count; `is_exempt` as above."""
    places = zip(request.row.places, request.handles, strict=True)
    authorized = [handle for place, handle in places if place.authorized]
    return any(_is_protected(each, is_exempt) for each in (*authorized, *request.sessions))


def _is_protected(handle: int, is_exempt: Callable[[int], bool]) -> bool:
    kind = handle >> 24
    return kind in _PERSISTING or (kind in _KNOWN and not is_exempt(handle))
