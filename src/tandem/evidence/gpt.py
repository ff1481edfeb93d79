"""GUID partition table (UEFI 2.10, section 5.3): the partitions, and the event that PCR 5 takes."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.guid import ZERO, guid

HINT: Final = "give a disk image with a GUID partition table"
SIGNATURE: Final = b"EFI PART"
BLOCK: Final = 512  # of QEMU's virtio disks
HEADER_SIZE: Final = 92
MIN_ENTRY: Final = 128
MAX_ENTRY: Final = 4096
MAX_ENTRIES: Final = 1024
HEAD: Final = 8 * 1024 * 1024  # bytes of a disk that may hold its primary table
ESP: Final = guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One entry in use; offset and size are in bytes, the number counts from 1."""

    number: int
    kind: bytes
    unique: bytes
    first_block: int
    offset: int
    size: int

    def content(self, disk: bytes | mmap.mmap) -> bytes:
        """Give the partition's bytes."""
        return disk[self.offset : self.offset + self.size]


@dataclass(frozen=True, kw_only=True)
class PartitionTable:
    """A primary table and what EV_EFI_GPT_EVENT holds of it (UEFI_GPT_DATA)."""

    partitions: tuple[Partition, ...]
    event_data: bytes


def parse_gpt(head: bytes, size: int) -> PartitionTable:
    """Read the primary table of a disk of `size` bytes from its first HEAD, or refuse it."""
    cursor = Cursor(head, "disk image", "little", HINT)
    cursor.seek(BLOCK)
    header = cursor.take(HEADER_SIZE, "partition table header")
    if not header.startswith(SIGNATURE):
        cursor.seek(BLOCK)
        raise cursor.broken("no GUID partition table")
    first, count, each_size = struct.unpack_from("<QII", header, 72)
    if count > MAX_ENTRIES or not MIN_ENTRY <= each_size <= MAX_ENTRY:
        raise cursor.broken(f"{count} partition entries of {each_size} bytes")
    cursor.seek(first * BLOCK)
    entries = [cursor.take(each_size, "partition entry") for _ in range(count)]
    used = [(number, each) for number, each in enumerate(entries, 1) if each[:16] != ZERO]
    return PartitionTable(
        partitions=tuple(_partition(number, each, size, cursor) for number, each in used),
        event_data=header + struct.pack("<Q", len(used)) + b"".join(each for _, each in used),
    )


def _partition(number: int, entry: bytes, size: int, cursor: Cursor) -> Partition:
    first, last = struct.unpack_from("<QQ", entry, 32)
    if not 0 < first <= last or (last + 1) * BLOCK > size:
        raise cursor.broken(f"partition {number} is not within the disk")
    return Partition(
        number=number,
        kind=entry[:16],
        unique=entry[16:32],
        first_block=first,
        offset=first * BLOCK,
        size=(last + 1 - first) * BLOCK,
    )
