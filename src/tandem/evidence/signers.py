"""Signers: keys, and how many of them must have signed before what they signed counts (k of n)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tandem.evidence.strict_json import Place

MAX_SIGNERS: Final = 16
SHOWN: Final = 16  # digits of a key's id: of eight, somebody else finds a key that has the same
KEY_ID_SIZE: Final = 32  # SHA-256 of the key, as `envelope.key_id` gives it in hexadecimal


@dataclass(frozen=True, kw_only=True)
class Signers:
    """Keys by their ids, each once and in order, and the number of them that it takes."""

    key_ids: tuple[str, ...]
    threshold: int

    def are_met_by(self, key_ids: Iterable[str]) -> bool:
        """Whether enough of these keys are among the keys that signed."""
        return len(set(self.key_ids) & set(key_ids)) >= self.threshold

    def __str__(self) -> str:
        """Say it in words: `2 of 3 keys (0123456789abcdef…, …)`."""
        names = ", ".join(f"{each[:SHOWN]}…" for each in self.key_ids)
        return f"{self.threshold} of {len(self.key_ids)} keys ({names})"


def read_signers(place: Place) -> Signers:
    """Read signers: at least one key, none twice, and a threshold that they can meet."""
    fields = place.fields(("key_ids", "threshold"))
    key_ids = [each.hexadecimal(KEY_ID_SIZE).hex() for each in fields["key_ids"].items(MAX_SIGNERS)]
    if not key_ids:
        fields["key_ids"].refuse("no key")
    if len(set(key_ids)) != len(key_ids):
        fields["key_ids"].refuse("a key occurs twice")
    threshold = fields["threshold"].integer(1, len(key_ids))
    return Signers(key_ids=tuple(sorted(key_ids)), threshold=threshold)
