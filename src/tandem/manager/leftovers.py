"""What a former generation of the master key left: taken away once the new one stands.

Until then a copy of the former identity and store would open, so a pTPM that is busy, or a disk
that fails, is asked again until it is done.
"""

from __future__ import annotations

from typing import Final

from tandem.log import Log
from tandem.manager.identity import Identity
from tandem.manager.ptpm import Ptpm
from tandem.manager.rotation import tidy
from tandem.manager.tcti import PtpmFailed
from tandem.settings import HostPaths

AGAIN_SECONDS: Final = 5.0
AT_ONCE: Final = 0.0  # the loop's clock is always past it


class Leftovers:
    """A duty of the Manager's loop."""

    def __init__(self, paths: HostPaths, ptpm: Ptpm, log: Log) -> None:
        self._paths = paths
        self._ptpm = ptpm
        self._log = log
        self._identity: Identity | None = None  # the newest, beside which nothing is to stay
        self._at = AT_ONCE

    def of(self, identity: Identity) -> None:
        """Take away, from the end of this turn on, whatever is not of this generation."""
        self._identity, self._at = identity, AT_ONCE

    def due(self, now: float) -> float | None:
        """Give when `run` has something to do; None where nothing is left."""
        return None if self._identity is None else self._at

    def run(self, now: float) -> None:
        """Take it away, or try again later."""
        if self._identity is None:
            return
        try:
            tidy(self._paths, self._ptpm, self._identity)
        except (PtpmFailed, OSError) as error:
            self._at = now + AGAIN_SECONDS
            self._log.warning("secrets.former-generation-left", problem=str(error))
            return
        self._identity = None
