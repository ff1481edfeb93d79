"""Small frozen values that every part of Tandem shares."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NewType

from tandem.errors import UsageError

SHA256_SIZE: Final = 32
SHA384_SIZE: Final = 48
LAUNCH_REGISTERS: Final = (17, 18)  # PC Client PTP: reset and extended from locality 4 only
NAME_PATTERN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

PairId = NewType("PairId", bytes)  # 16 random bytes, new for each launch
PAIR_ID_SIZE: Final = 16


class Locality(IntEnum):
    """Who speaks to a TPM (PC Client PTP, section 5): a guest has 0 and 1, the launch 4."""

    GUEST = 0
    GUEST_LOADER = 1
    LAUNCH = 4


class Secret:
    """Key material; it shows its length and never its bytes, in a log as in a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Give the bytes, for the one call that needs them."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes)"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


def checked_name(text: str, what: str) -> str:
    """Give `text` back when it can name a guest, a vTPM or a group: a DNS label (RFC 1123)."""
    if not NAME_PATTERN.fullmatch(text):
        raise UsageError(
            "TDM-NAME-NOT-A-LABEL",
            f"{what} name {text[:64]!a} is not a label of 1 to 63 letters, digits and hyphens",
            hint="use lower-case letters, digits and inner hyphens, as in web-01",
        )
    return text
