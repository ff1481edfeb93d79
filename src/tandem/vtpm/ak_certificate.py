"""The AK's certificate in this launch: short-lived, renewed before it ends.

It goes into each deep quote, and into an NV index for verifiers that know nothing of those.
"""

from __future__ import annotations

import time
from typing import Final

from tandem.errors import HostError, Refused
from tandem.vtpm.manager_client import ManagerClient

LIFE: Final = 24 * 3600.0  # seconds; the Manager's `issuing.AK_LIFE`
RETRY: Final = 60.0  # seconds after a renewal that failed


class AkCertificate:
    """The newest certificate of the AK, and of the key that issued it."""

    def __init__(self, manager: ManagerClient, certificate: bytes, issuer: bytes) -> None:
        self._manager = manager
        self._due = _now() + LIFE / 2
        self.certificate = certificate
        self.issuer = issuer

    def refresh(self) -> None:
        """Renew the certificate where less than half of its life is left.

        Where it cannot be renewed now, the one there is stands until it ends.
        """
        if _now() < self._due:
            return
        try:
            renewed = self._manager.renew_ak()
        except (HostError, Refused):
            self._due = _now() + RETRY
            return
        self._due = _now() + LIFE / 2
        self.certificate, self.issuer = renewed.ak_certificate, renewed.issuer_certificate


def _now() -> float:
    """Give a time that goes on while the host sleeps, whatever its clock is set to."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
