"""TCG event log: what explains PCR values, written for a launch, read from any firmware.

Two layouts (PC Client Platform Firmware Profile 1.06, section 10): the crypto-agile one, which
begins with a Spec ID event and lists one digest a bank, and the SHA-1 one of TPM 1.2.  Integers
are little-endian.  A launch log is crypto-agile with SHA-256 and SHA-384.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tandem.errors import UntrustedInput
from tandem.evidence.cursor import Cursor
from tandem.evidence.launch import EV_EVENT_TAG, LaunchEvent, Tag, in_order

EV_NO_ACTION: Final = 0x00000003
SPEC_ID: Final = b"Spec ID Event03\0"  # TCG_EfiSpecIDEvent, section 10.4.5.1
STARTUP_LOCALITY: Final = b"StartupLocality\0"  # section 10.4.5.3
ALGORITHMS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
LAUNCH_BANKS: Final = {0x000B: "sha256", 0x000C: "sha384"}  # TPM_ALG_ID: hashlib's name
MAX_LOG: Final = 16 * 1024 * 1024
MAX_LAUNCH_LOG: Final = 64 * 1024
MAX_ALGORITHMS: Final = 8
SHA1_SIZE: Final = 20
_SPEC_FIXED: Final = struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(LAUNCH_BANKS))  # client, 2.0, 64 bit


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of a log (TCG_PCR_EVENT2 or TCG_PCClientPCREvent)."""

    offset: int  # of its first byte in the log
    register: int
    kind: int  # EV_...
    digests: Mapping[str, bytes]  # by bank; banks of algorithms unknown here are left out
    data: bytes

    @property
    def extends(self) -> bool:
        """Whether the event was extended; EV_NO_ACTION informs only."""
        return self.kind != EV_NO_ACTION


@dataclass(frozen=True, kw_only=True)
class EventLog:
    """A log in the order it was written; `banks` are those of the known algorithms."""

    banks: tuple[str, ...]
    events: tuple[Event, ...]

    @property
    def startup_locality(self) -> int:
        """The locality of the platform's TPM2_Startup, which PCR 0 starts from."""
        for event in self.events:
            if not event.extends and event.data.startswith(STARTUP_LOCALITY):
                return event.data[len(STARTUP_LOCALITY)] if len(event.data) == 17 else 0
        return 0


def write_launch_log(events: Sequence[LaunchEvent]) -> bytes:
    """Write launch events, in extension order, as a crypto-agile log."""
    return write_log([(each.register, EV_EVENT_TAG, each.encode()) for each in in_order(events)])


def write_log(entries: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Write entries (register, EV_..., data) as a crypto-agile log; digests are of the data."""
    return b"".join([_launch_header(), *(_entry(*entry) for entry in entries)])


def parse_launch_log(data: bytes) -> tuple[LaunchEvent, ...]:
    """Read a launch log; anything but the exact bytes that `write_launch_log` makes is refused."""
    if len(data) > MAX_LAUNCH_LOG:
        raise _refuse(f"{len(data)} bytes, more than {MAX_LAUNCH_LOG}", MAX_LAUNCH_LOG)
    events = tuple(_launch_event(event) for event in parse_event_log(data).events)
    if not events or events[0].tag is not Tag.BUILDER:
        raise _refuse("does not begin with the builder's own event", 0)
    again = write_launch_log(events)
    if again != data:
        raise _refuse("an event is out of order or its digest is not of its data", 0)
    return events


def parse_event_log(data: bytes) -> EventLog:
    """Read a firmware's or a launch's log of either layout, or refuse where it breaks."""
    if len(data) > MAX_LOG:
        raise _refuse(f"{len(data)} bytes, more than {MAX_LOG}", MAX_LOG)
    cursor = Cursor(data, "event log", "little")
    first = _sha1_event(cursor)
    if first.extends or not first.data.startswith(SPEC_ID):
        events = [first]
        while cursor.left:
            events.append(_sha1_event(cursor))
        return EventLog(banks=("sha1",), events=tuple(events))
    sizes = _digest_sizes(first.data)
    agile = []
    while cursor.left:
        agile.append(_agile_event(cursor, sizes))
    banks = tuple(ALGORITHMS[each] for each in sizes if each in ALGORITHMS)
    return EventLog(banks=banks, events=tuple(agile))


def _launch_header() -> bytes:
    algorithms = b"".join(
        struct.pack("<HH", number, hashlib.new(name).digest_size)
        for number, name in LAUNCH_BANKS.items()
    )
    spec = SPEC_ID + _SPEC_FIXED + algorithms + b"\0"  # no vendor information
    return struct.pack("<II20xI", 0, EV_NO_ACTION, len(spec)) + spec


def _entry(register: int, kind: int, data: bytes) -> bytes:
    """Write a TCG_PCR_EVENT2 (section 10.2.2)."""
    digests = b"".join(
        struct.pack("<H", number) + hashlib.new(name, data).digest()
        for number, name in LAUNCH_BANKS.items()
    )
    head = struct.pack("<III", register, kind, len(LAUNCH_BANKS))
    return head + digests + struct.pack("<I", len(data)) + data


def _launch_event(event: Event) -> LaunchEvent:
    """Read the tagged event in a log entry."""
    cursor = Cursor(event.data, "launch event", "little")
    number = cursor.u32("tag")
    data = cursor.take(cursor.u32("length"), "data")
    cursor.finish()
    if event.kind != EV_EVENT_TAG or number not in {int(tag) for tag in Tag}:
        raise _refuse(f"an event of kind {event.kind:#x}, tag {number:#x}", event.offset)
    return LaunchEvent(tag=Tag(number), data=data)


def _sha1_event(cursor: Cursor) -> Event:
    """Read a TCG_PCClientPCREvent (section 10.2.1)."""
    offset = cursor.offset
    register, kind = cursor.u32("PCR index"), cursor.u32("event type")
    digest = cursor.take(SHA1_SIZE, "SHA-1 digest")
    data = cursor.take(cursor.u32("event size"), "event")
    return Event(offset=offset, register=register, kind=kind, digests={"sha1": digest}, data=data)


def _agile_event(cursor: Cursor, sizes: Mapping[int, int]) -> Event:
    """Read a TCG_PCR_EVENT2 (section 10.2.2); it has one digest for each bank of the header."""
    offset = cursor.offset
    register, kind, count = cursor.u32("PCR index"), cursor.u32("event type"), cursor.u32("count")
    if count != len(sizes):
        raise cursor.broken(f"an event with {count} digests in a log of {len(sizes)} banks")
    found: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = cursor.u16("digest algorithm")
        if algorithm not in sizes or algorithm in found:
            raise cursor.broken(f"digest algorithm {algorithm:#x} is repeated or not in the header")
        found[algorithm] = cursor.take(sizes[algorithm], "digest")
    digests = {ALGORITHMS[each]: found[each] for each in found if each in ALGORITHMS}
    data = cursor.take(cursor.u32("event size"), "event")
    return Event(offset=offset, register=register, kind=kind, digests=digests, data=data)


def _digest_sizes(spec: bytes) -> dict[int, int]:
    """Read a TCG_EfiSpecIDEvent (section 10.4.5.1): digest size by algorithm."""
    cursor = Cursor(spec, "Spec ID event", "little")
    cursor.take(len(SPEC_ID), "signature")
    cursor.take(8, "platform class and versions")
    count = cursor.u32("number of algorithms")
    if not 0 < count <= MAX_ALGORITHMS:
        raise cursor.broken(f"{count} digest algorithms, not 1 to {MAX_ALGORITHMS}")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = cursor.u16("algorithm"), cursor.u16("digest size")
        known = ALGORITHMS.get(algorithm)
        if algorithm in sizes or (known and size != hashlib.new(known).digest_size):
            raise cursor.broken(f"algorithm {algorithm:#x} is repeated or of a wrong size")
        sizes[algorithm] = size
    cursor.take(cursor.u8("vendor information size"), "vendor information")
    return sizes


def _refuse(problem: str, offset: int) -> UntrustedInput:
    return UntrustedInput(
        "TDM-EVENT-LOG-BAD",
        f"event log: {problem}",
        hint="read the log again from its source; do not edit it",
        offset=offset,
    )
