"""FAT file system, as an EFI system partition is one: reads files by path, changes nothing.

Layout: Microsoft FAT specification of 2004 (boot sector 3.1, directory 6, long names 7).  Every
chain of clusters is bounded by the number of clusters, so a loop in it ends in a refusal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tandem.evidence.cursor import Cursor

HINT: Final = "give a disk image whose EFI system partition is FAT, as mkfs.vfat makes it"
DIRECTORY, VOLUME_LABEL, LONG_NAME = 0x10, 0x08, 0x0F  # attributes of an entry
ENTRY_SIZE: Final = 32
DELETED: Final = 0xE5
LAST_LONG: Final = 0x40
MAX_ENTRIES: Final = 65536
MAX_DEPTH: Final = 16
LOWER_BASE, LOWER_EXTENSION = 0x08, 0x10  # of a short name, as Windows NT and Linux keep it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file or directory."""

    name: str
    directory: bool
    cluster: int
    size: int


class FatFiles:
    """Files of one partition."""

    def __init__(self, partition: bytes) -> None:
        self.data = partition
        cursor = Cursor(partition, "EFI system partition", "little", HINT)
        boot = cursor.take(90, "boot sector")
        sector, per_cluster, reserved, fats, roots = struct.unpack_from("<HBHBH", boot, 11)
        sectors = int.from_bytes(boot[19:21], "little") or int.from_bytes(boot[32:36], "little")
        fat_sectors = int.from_bytes(boot[22:24], "little") or int.from_bytes(boot[36:40], "little")
        whole = sector in (512, 1024, 2048, 4096) and per_cluster and fats and fat_sectors
        if not whole or sectors * sector > len(partition):
            raise cursor.broken("no FAT file system")
        root_sectors = -(-roots * ENTRY_SIZE // sector)
        first = reserved + fats * fat_sectors + root_sectors
        self.cluster_size = sector * per_cluster
        self.first_data = first * sector
        self.clusters = max(0, (sectors - first) // per_cluster)
        self.bits = 12 if self.clusters < 4085 else 16 if self.clusters < 65525 else 32
        self.table = partition[reserved * sector : (reserved + fat_sectors) * sector]
        self.fixed_root = partition[(first - root_sectors) * sector : first * sector]
        self.root_cluster = int.from_bytes(boot[44:48], "little") if self.bits == 32 else 0

    def read(self, path: str) -> bytes | None:
        """Give a file's content, or None where there is no such file; letters' case is ignored."""
        entry = self._find(path)
        if entry is None or entry.directory:
            return None
        return self._chain(entry.cluster)[: entry.size] if entry.size else b""

    def list(self, path: str) -> tuple[Entry, ...]:
        """Give the entries of a directory in their order; none where there is no such directory."""
        if not path.strip("/"):
            return tuple(self._entries(self._root()))
        entry = self._find(path)
        if entry is None or not entry.directory:
            return ()
        return tuple(self._entries(self._chain(entry.cluster)))

    def _find(self, path: str) -> Entry | None:
        parts = [part for part in path.replace("\\", "/").split("/") if part]
        data, found = self._root(), None
        for depth, part in enumerate(parts):
            found = next(
                (each for each in self._entries(data) if each.name.lower() == part.lower()), None
            )
            if found is None or depth >= MAX_DEPTH:
                return None
            if depth < len(parts) - 1:
                if not found.directory:
                    return None
                data = self._chain(found.cluster)
        return found

    def _root(self) -> bytes:
        return self._chain(self.root_cluster) if self.bits == 32 else self.fixed_root

    def _chain(self, cluster: int) -> bytes:
        """Give the content of a chain of clusters."""
        pieces: list[bytes] = []
        end = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self.bits]
        while cluster < end:
            start = self.first_data + (cluster - 2) * self.cluster_size
            if not 2 <= cluster < self.clusters + 2 or len(pieces) > self.clusters:
                raise Cursor(self.data, "EFI system partition", hint=HINT).broken(
                    f"a chain leads to cluster {cluster} of {self.clusters}"
                )
            pieces.append(self.data[start : start + self.cluster_size])
            cluster = self._next(cluster)
        return b"".join(pieces)

    def _next(self, cluster: int) -> int:
        if self.bits == 12:
            offset = cluster + cluster // 2
            pair = int.from_bytes(self.table[offset : offset + 2], "little")
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        size = self.bits // 8
        found = int.from_bytes(self.table[cluster * size : (cluster + 1) * size], "little")
        return found & (0x0FFFFFFF if self.bits == 32 else 0xFFFF)

    def _entries(self, data: bytes) -> Iterator[Entry]:
        long_name: dict[int, bytes] = {}
        for offset in range(0, min(len(data), MAX_ENTRIES * ENTRY_SIZE), ENTRY_SIZE):
            raw = data[offset : offset + ENTRY_SIZE]
            if len(raw) < ENTRY_SIZE or raw[0] == 0:
                return
            if raw[11] & 0x3F == LONG_NAME and raw[0] != DELETED:
                long_name = {} if raw[0] & LAST_LONG else long_name
                long_name[raw[0] & 0x3F] = raw[1:11] + raw[14:26] + raw[28:32]
                continue
            if raw[0] != DELETED and not raw[11] & VOLUME_LABEL and raw[0] != ord("."):
                yield _entry(raw, long_name)
            long_name = {}


def _entry(raw: bytes, long_name: dict[int, bytes]) -> Entry:
    name = b"".join(long_name[each] for each in sorted(long_name))
    text = name.decode("utf-16-le", "replace").split("\0")[0] if name else _short_name(raw)
    high, low = int.from_bytes(raw[20:22], "little"), int.from_bytes(raw[26:28], "little")
    return Entry(
        name=text,
        directory=bool(raw[11] & DIRECTORY),
        cluster=high << 16 | low,
        size=int.from_bytes(raw[28:32], "little"),
    )


def _short_name(raw: bytes) -> str:
    base, extension = (part.decode("ascii", "replace").rstrip() for part in (raw[:8], raw[8:11]))
    base = base.lower() if raw[12] & LOWER_BASE else base
    extension = extension.lower() if raw[12] & LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base
