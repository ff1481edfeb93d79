"""The `[library]` table of a source: its name, its time, and who signs what comes next."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.builder.inputs import read_small
from tandem.builder.library import MAX_KEY_FILE
from tandem.evidence.envelope import key_id, parse_public_key
from tandem.evidence.manifest import TIME_FORMAT
from tandem.evidence.signers import MAX_SIGNERS
from tandem.evidence.strict_json import Place

TABLE: Final = "library"
DEFAULT_NAME: Final = "main"
MOST_DAYS: Final = 3650
TEMPLATE: Final = f"""\
# [library]
# name = "{DEFAULT_NAME}"                # a host never goes back to an older version of this name
# expires_days = 90            # after signing; then no guest starts from it any more
# signers = ["alice.pub", "bob.pub"]  # who sign the next version; default: who signs this one
# threshold = 2                # how many of them it takes; default: 1
"""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a source says of the library as a whole; no signers: those who sign it."""

    name: str = DEFAULT_NAME
    expires_days: int | None = None
    signers: tuple[str, ...] = ()  # files with public keys
    threshold: int = 1


def read_terms(place: Place | None) -> Terms:
    """Read the table, or give what holds without one."""
    if place is None:
        return Terms()
    fields = place.fields((), ("name", "expires_days", "signers", "threshold"))
    signers: tuple[str, ...] = ()
    if "signers" in fields:
        signers = tuple(each.text() for each in fields["signers"].items(MAX_SIGNERS))
    return Terms(
        name=fields["name"].name() if "name" in fields else DEFAULT_NAME,
        expires_days=_number(fields, "expires_days", MOST_DAYS),
        signers=signers,
        threshold=_number(fields, "threshold", MAX_SIGNERS) or 1,
    )


def header(
    terms: Terms, directory: Path, signing: Sequence[str], now: datetime.datetime
) -> dict[str, object]:
    """Give the fields of the manifest beside version and entries; keys of id `signing` sign it."""
    named = [parse_public_key(read_small(directory / each, MAX_KEY_FILE)) for each in terms.signers]
    ids = sorted({key_id(key) for key in named} or set(signing))
    fields: dict[str, object] = {
        "name": terms.name,
        "signers": {"key_ids": ids, "threshold": terms.threshold},
    }
    if terms.expires_days is not None:
        expires = now + datetime.timedelta(days=terms.expires_days)
        fields["expires"] = f"{expires:{TIME_FORMAT}}"
    return fields


def _number(fields: dict[str, Place], key: str, most: int) -> int | None:
    return fields[key].integer(1, most) if key in fields else None
