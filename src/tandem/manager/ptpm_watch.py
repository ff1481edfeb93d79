"""Whether the pTPM is still the one that the Manager opened: there, and never reset since.

A TPM that was reset under a running host has empty PCRs, which whoever reset it may fill as he
likes.  So the Manager ends by name: what it unsealed belongs to a host in a measured state, and at
its next start the pTPM decides anew.  Every quote says the reset count; between quotes it is asked
for, which also finds a pTPM that hangs or is gone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.manager.tcti import HEADER_SIZE, DescriptorTcti, PtpmFailed

READ_CLOCK: Final = bytes.fromhex("8001" + "0000000a" + "00000181")  # TPM2_ReadClock (Part 3, 29.1)
CHECK_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 0.2


class PtpmWatch:
    """A duty of the Manager's loop, which it ends; those who ask just then are told why first."""

    def __init__(self, tcti: DescriptorTcti) -> None:
        self._tcti = tcti
        self._resets: int | None = None  # at the start
        self._next = 0.0
        self._end: float | None = None

    def due(self, now: float) -> float | None:
        """Give when the pTPM is to be looked at, or, once it was given up, the Manager's end."""
        if self._tcti.ended is not None and self._end is None:
            self._end = now + GRACE_SECONDS
        return self._next if self._end is None else self._end

    def run(self, now: float) -> None:
        """Raise why the pTPM was given up, or look at it."""
        if self._tcti.ended is not None:
            raise self._tcti.ended.with_traceback(None)
        self._next = now + CHECK_SECONDS
        with suppress(PtpmFailed):  # the end is due soon
            self.look()

    def look(self) -> None:
        """Raise where the pTPM was reset since it was looked at first."""
        resets = self._reset_count()
        if resets is not None:
            self.require(resets)

    def require(self, resets: int) -> None:
        """Raise where the reset count is another than at the start; every quote says it."""
        if self._resets is None:
            self._resets = resets
        if resets != self._resets:
            self._tcti.give_up_after_reset(f"reset count {resets}, and {self._resets} at the start")

    def _reset_count(self) -> int | None:
        """Ask for TPMS_TIME_INFO (Part 2, 10.11.6); None where the pTPM is too busy to say."""
        response = self._tcti.transceive(READ_CLOCK)
        if any(response[6:HEADER_SIZE]):
            return None
        cursor = Cursor(response[HEADER_SIZE:], "TPMS_TIME_INFO")
        cursor.take(16, "time and clock")
        return cursor.u32("reset count")
