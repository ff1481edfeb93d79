"""The duty to open the groups once the Manager serves, so that no guest's start waits for it.

What stays closed is logged then, and tried again when somebody needs it.
"""

from __future__ import annotations

import time
from typing import Final

from tandem.errors import HostError, Refused
from tandem.log import Log
from tandem.manager.groups import Groups

PAUSE: Final = 0.5  # seconds in which others are served, after each group


class GroupOpening:
    """Opens one group at a time, in the order of their names."""

    def __init__(self, groups: Groups, log: Log) -> None:
        self._groups = groups
        self._log = log
        self._left = [name for name in groups.names() if not groups.is_open(name)]
        self._next = 0.0

    def due(self, now: float) -> float | None:
        """Give when to open the next one; None where all were tried."""
        return self._next if self._left else None

    def run(self, now: float) -> None:
        """Open a group, unless somebody needed it before or it is gone."""
        name = self._left.pop(0)
        if name in self._groups.names():
            try:
                self._groups.opened(name)
            except (Refused, HostError) as error:
                self._log.warning("group.closed", group=name, **error.as_record())
        self._next = time.monotonic() + PAUSE
