"""How often somebody may write a TPM's NV memory, which wears out and is slow to write.

Some TPMs bear 100,000 writes, and many refuse everybody's for a while once one writes too fast
(TPM_RC_NV_RATE).  The Manager's anchor is in the same memory, so others write it at a rate.
"""

from __future__ import annotations

from typing import Final

NV_RATE: Final = 0x920  # TPM_RC_NV_RATE (Part 2, 6.6.3)
HOUR: Final = 3600.0


class WriteBudget:
    """An hour's writes at once, and then as many in each hour."""

    def __init__(self, an_hour: int, now: float) -> None:
        self.an_hour = an_hour
        self._left = float(an_hour)
        self._since = now

    def used_up(self, now: float) -> bool:
        """Whether one more is too many."""
        earned = (now - self._since) * self.an_hour / HOUR
        self._left = min(float(self.an_hour), self._left + earned)
        self._since = now
        return self._left < 1

    def spend(self) -> None:
        """Count one more."""
        self._left -= 1
