"""Authorizations of a vTPM that its guest could misuse where they are empty (DESIGN, section 12).

The vTPM looks at them itself for each deep quote, and its quote is qualified with what it found.
With an empty platformAuth the guest's root clears its own lockout, changes the EPS and disables
hierarchies; with a lockoutAuth that it knows, it resets the dictionary attack counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tandem.errors import UntrustedInput
from tandem.evidence import canonical, record_fields

MAX_SIZE: Final = 64


class Standing(StrEnum):
    """How an authorization of a hierarchy stands."""

    SET = "set"
    EMPTY = "empty"
    DISABLED = "disabled"  # with its hierarchy, until the next launch: nobody can use it


@dataclass(frozen=True, kw_only=True)
class Authorizations:
    """What the vTPM found as it quoted."""

    platform: Standing
    lockout: Standing

    def encode(self) -> bytes:
        """Write canonical CBOR; its SHA-256 is in the quote's qualifying data."""
        return canonical.encode({"platform": self.platform.value, "lockout": self.lockout.value})


@dataclass(frozen=True, kw_only=True)
class _Fields:
    platform: str
    lockout: str


def parse_authorizations(data: bytes) -> Authorizations:
    """Read what a vTPM found, or refuse bytes that are not exactly that."""
    what = "vTPM authorizations"
    fields = record_fields.from_map(_Fields, canonical.decode_map(data, what, MAX_SIZE), what)
    try:
        platform, lockout = Standing(fields.platform), Standing(fields.lockout)
    except ValueError as error:
        raise UntrustedInput(
            "TDM-AUTHORIZATIONS-BAD",
            f"{what}: neither set, nor empty, nor disabled",
            hint="the evidence is of another version or damaged",
            offset=0,
        ) from error
    return Authorizations(platform=platform, lockout=lockout)
