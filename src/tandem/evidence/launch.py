"""Launch measurement: the events that explain PCR 17 and 18, in the order they are extended.

Each event is a TCG tagged event (EV_EVENT_TAG: 32-bit id, 32-bit length, data; PC Client Platform
Firmware Profile, section 10.4.2.2) whose data is canonical JSON, and each extended digest is the
hash of the whole tagged event: order, absence and length cannot be confused.  The builder writes
them, the verifier derives the same from a manifest entry.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

EV_EVENT_TAG: Final = 0x00000006
IDENTITY_REGISTER: Final = 17
CONTENT_REGISTER: Final = 18


class Tag(IntEnum):
    """What a launch event is about; the numbers are Tandem's own ("TD" and a count)."""

    BUILDER = 0x54440001
    HYPERVISOR = 0x54440002
    CONFIGURATION = 0x54440003
    POLICY = 0x54440004
    MANIFEST = 0x54440005
    FIRMWARE = 0x54440011
    KERNEL = 0x54440012
    COMMAND_LINE = 0x54440013
    INITRD = 0x54440014
    TABLES = 0x54440015
    DISK = 0x54440016
    VARIABLES = 0x54440017


REGISTER_OF: Final = {
    tag: IDENTITY_REGISTER if tag < Tag.FIRMWARE else CONTENT_REGISTER for tag in Tag
}
ORDER: Final = tuple(Tag)  # BUILDER first: its data is what the D-RTM sequence hashes


@dataclass(frozen=True, kw_only=True)
class LaunchEvent:
    """One measured input of a launch."""

    tag: Tag
    data: bytes

    @property
    def register(self) -> int:
        """The PCR that the event is extended into."""
        return REGISTER_OF[self.tag]

    def encode(self) -> bytes:
        """Write the tagged event, little-endian as all of the TCG log; its hash is extended."""
        return struct.pack("<II", self.tag, len(self.data)) + self.data


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A measured file: its digests and size, never its path."""

    size: int
    sha256: bytes
    sha384: bytes


def blob_event(tag: Tag, blob: Blob) -> LaunchEvent:
    """Make the event of a firmware, ROM, kernel, initrd, table or disk image."""
    return json_event(
        tag, {"size": blob.size, "sha256": blob.sha256.hex(), "sha384": blob.sha384.hex()}
    )


def command_line_event(command_line: str) -> LaunchEvent:
    """Make the event of the kernel command line."""
    return json_event(Tag.COMMAND_LINE, {"command_line": command_line})


def json_event(tag: Tag, fields: Mapping[str, object]) -> LaunchEvent:
    """Make an event from JSON fields: sorted keys, no spaces, ASCII."""
    return LaunchEvent(tag=tag, data=canonical_json(fields))


def canonical_json(value: object) -> bytes:
    """Write JSON so that equal values have equal bytes: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def in_order(events: Sequence[LaunchEvent]) -> tuple[LaunchEvent, ...]:
    """Sort events into extension order; events of one tag keep their own order."""
    return tuple(sorted(events, key=lambda event: ORDER.index(event.tag)))
