"""The duty to have issuing keys replaced in time."""

from __future__ import annotations

from typing import Final

from tandem.log import Log
from tandem.manager.groups import Groups

INTERVAL: Final = 60.0  # seconds between two looks at the keys' age


class KeyRenewal:
    """Looks at the issuing keys of all open groups once a minute."""

    def __init__(self, groups: Groups, log: Log) -> None:
        self._groups = groups
        self._log = log
        self._next = 0.0

    def due(self, now: float) -> float | None:
        """Give when to look again."""
        self._next = self._next or now + INTERVAL
        return self._next

    def run(self, now: float) -> None:
        """Replace what is due; what could not be replaced is tried again the next time."""
        self._next = now + INTERVAL
        for error in self._groups.renew_keys():
            self._log.warning("issuing-key.not-renewed", **error.as_record())
