"""Prediction: what the firmware of a guest will measure, known before its first launch.

A prediction is made when a library is signed and travels in the manifest's entry, so it needs no
firmware image where it is compared.  Registers that it does not name must hold what it says, too:
a register without events stays zero.  What cannot be known in advance is said, with the reason.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tandem.evidence.pcr_values import extend
from tandem.evidence.strict_json import Place
from tandem.values import SHA256_SIZE, SHA384_SIZE

BANKS: Final = {"sha256": SHA256_SIZE, "sha384": SHA384_SIZE}
REGISTERS: Final = (*range(10), *range(11, 15))  # firmware's and boot loaders'; 10 is the kernel's
MAX_EVENTS: Final = 512
MAX_ALTERNATIVES: Final = 32
MAX_VALUES: Final = 4096  # of one register, by all combinations of alternatives
MAX_WORDS: Final = 300


class Part(StrEnum):
    """The part of a boot that an event is of: what a verdict names where it differs."""

    FIRMWARE = "firmware"
    SECURE_BOOT = "Secure Boot state"
    KEYS = "Secure Boot keys"
    SIGNER = "signer of what was booted"
    BOOT_OPTIONS = "boot options"
    PARTITIONS = "partition table"
    LOADER = "boot loader"
    KERNEL = "kernel"
    COMMAND_LINE = "command line"
    INITRD = "initrd"
    PHASE = "phase of the boot"


@dataclass(frozen=True, kw_only=True)
class PredictedEvent:
    """One event; `digests` are by bank, one for each thing that may be measured there."""

    register: int
    part: Part
    what: str
    digests: Mapping[str, tuple[bytes, ...]]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """All events in their order, and the registers that nothing can be said of, with the reason."""

    secure_boot: bool
    events: tuple[PredictedEvent, ...]
    unpredicted: Mapping[int, str]

    def of(self, register: int) -> tuple[PredictedEvent, ...]:
        """Give the events of one register."""
        return tuple(event for event in self.events if event.register == register)

    def values(self, register: int, bank: str = "sha256") -> tuple[bytes, ...]:
        """Give what a predicted register may hold: one value, or one for each alternative."""
        choices = [event.digests[bank] for event in self.of(register)]
        found = []
        for digests in itertools.islice(itertools.product(*choices), MAX_VALUES):
            value = bytes(BANKS[bank])
            for digest in digests:
                value = extend(value, digest, bank)
            found.append(value)
        return tuple(found)

    def document(self) -> dict[str, object]:
        """Write what a manifest holds of it."""
        return {
            "secure_boot": self.secure_boot,
            "events": [
                {
                    "register": event.register,
                    "part": event.part.value,
                    "what": event.what,
                    **{bank: [each.hex() for each in event.digests[bank]] for bank in BANKS},
                }
                for event in self.events
            ],
            "unpredicted": {str(index): why for index, why in sorted(self.unpredicted.items())},
        }


def predicted(register: int, part: Part, what: str, *contents: bytes) -> PredictedEvent:
    """Make the event of hashed content; several contents are alternatives."""
    return of_digests(
        register,
        part,
        what,
        {
            bank: tuple(hashlib.new(bank, each).digest() for each in dict.fromkeys(contents))
            for bank in BANKS
        },
    )


def of_digests(
    register: int, part: Part, what: str, digests: Mapping[str, tuple[bytes, ...]]
) -> PredictedEvent:
    """Make an event of digests that are known; what it is about is kept printable and short."""
    return PredictedEvent(register=register, part=part, what=plain(what), digests=digests)


def plain(words: str) -> str:
    """Keep words printable, ASCII and short: names in firmware and on disks may be anything."""
    escaped = words.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(each if each.isprintable() else " " for each in escaped)[:MAX_WORDS]


def read_prediction(place: Place) -> Prediction:
    """Read a prediction from a manifest."""
    fields = place.fields(("secure_boot", "events", "unpredicted"))
    known = {str(index) for index in REGISTERS}
    return Prediction(
        secure_boot=fields["secure_boot"].typed(bool),
        events=tuple(_event(each) for each in fields["events"].items(MAX_EVENTS)),
        unpredicted={
            int(index): why.text(MAX_WORDS)
            for index, why in fields["unpredicted"].fields((), known).items()
        },
    )


def combinations(events: Sequence[PredictedEvent]) -> int:
    """Give how many values a register of these events may have."""
    count = 1
    for event in events:
        count *= len(event.digests["sha256"])
    return count


def _event(place: Place) -> PredictedEvent:
    fields = place.fields(("register", "part", "what", *BANKS))
    register = fields["register"].integer(0, max(REGISTERS))
    if register not in REGISTERS:
        fields["register"].refuse(f"not a register of firmware or boot loader: {register}")
    digests = {
        bank: tuple(each.hexadecimal(size) for each in fields[bank].items(MAX_ALTERNATIVES))
        for bank, size in BANKS.items()
    }
    if not digests["sha256"] or len({len(each) for each in digests.values()}) != 1:
        place.refuse("not as many digests in each bank, or none")
    return PredictedEvent(
        register=register,
        part=Part(fields["part"].one_of(*(each.value for each in Part))),
        what=fields["what"].text(MAX_WORDS),
        digests=digests,
    )
