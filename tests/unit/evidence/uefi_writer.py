"""Small firmware images, variable stores, disks and EFI applications, written for tests."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Mapping

from tandem.evidence.firmware_volume import FILE_SYSTEMS, LZMA_SECTION, VOLUME_IMAGE
from tandem.evidence.gpt import ESP
from tandem.evidence.signature_database import X509
from tandem.evidence.variable_store import ADDED, AUTHENTICATED_STORE, SYSTEM_NV_DATA, VARIABLE

OWNER = b"o" * 16
HEADERS = 0x400
ALIGNMENT = 512
SECTOR = 512


def pe_image(sections: Mapping[bytes, bytes], signature: bytes = b"", subsystem: int = 10) -> bytes:
    """An EFI application (PE32+) with these sections."""
    optional = 112 + 16 * 8
    table, body, address = b"", b"", 0x1000
    for name, content in sections.items():
        padded = content.ljust(-(-len(content) // ALIGNMENT) * ALIGNMENT, b"\0")
        table += struct.pack(
            "<8sIIII16x", name, len(content), address, len(padded), HEADERS + len(body)
        )
        body += padded
        address += 0x10000
    end = HEADERS + len(body)
    certificates = b""
    if signature:
        whole = struct.pack("<IHH", 8 + len(signature), 0x0200, 0x0002) + signature
        certificates = whole.ljust(-(-len(whole) // 8) * 8, b"\0")
    directories = bytes(4 * 8) + struct.pack("<II", end if signature else 0, len(certificates))
    fields = struct.pack("<H58xI4xH38xI", 0x20B, HEADERS, subsystem, 16)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0"
    head += struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, optional, 0x22)
    head += fields + directories.ljust(16 * 8, b"\0") + table
    return head.ljust(HEADERS, b"\0") + body + certificates


def signature_list(certificate: bytes) -> bytes:
    """A signature database of one certificate."""
    size = len(OWNER) + len(certificate)
    return X509 + struct.pack("<III", 28 + size, 0, size) + OWNER + certificate


def variable_store(variables: Mapping[tuple[bytes, str], bytes], state: int = ADDED) -> bytes:
    """A volume of authenticated variables."""
    body = b""
    for (vendor, name), data in variables.items():
        wide = (name + "\0").encode("utf-16-le")
        head = struct.pack("<HBxI28xII", VARIABLE, state, 7, len(wide), len(data))
        body += head + vendor + wide + data
        body = body.ljust(-(-len(body) // 4) * 4, b"\xff")
    body = body.ljust(4096, b"\xff")
    store = AUTHENTICATED_STORE + struct.pack("<IBB6x", 28 + len(body), 0x5A, 0xFE) + body
    head = bytes(16) + SYSTEM_NV_DATA + struct.pack("<Q4sIH", 72 + len(store), b"_FVH", 0, 72)
    return head.ljust(72, b"\0") + store


def firmware_image(packed: bytes) -> bytes:
    """A volume whose one file is a compressed section."""
    section = LZMA_SECTION + struct.pack("<HH", 24, 1) + packed
    section = struct.pack("<I", (len(section) + 4) | 0x02 << 24) + section
    file = b"f" * 16 + struct.pack("<HBBIB", 0, 0x0B, 0, len(section) + 24, 0xF8)[:8]
    file = file[:20] + (len(section) + 24).to_bytes(3, "little") + b"\xf8" + section
    length = 56 + len(file)
    head = (
        bytes(16) + FILE_SYSTEMS[0] + struct.pack("<Q4sIHHHBB", length, b"_FVH", 0, 56, 0, 0, 0, 2)
    )
    return head.ljust(56, b"\0") + file


def compressed(content: bytes) -> bytes:
    """LZMA with the size in its header, as edk2 writes it."""
    packed = lzma.compress(content, lzma.FORMAT_ALONE)
    return packed[:5] + struct.pack("<Q", len(content)) + packed[13:]


def volume_section(volume: bytes) -> bytes:
    """A section that holds a volume."""
    return struct.pack("<I", (len(volume) + 4) | VOLUME_IMAGE << 24) + volume


def gpt_disk(partition: bytes) -> bytes:
    """A disk with one EFI system partition."""
    first = 34
    last = first + len(partition) // SECTOR - 1
    entry = ESP + b"u" * 16 + struct.pack("<QQQ", first, last, 0)
    header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 0, first, last,
                         b"d" * 16, 2, 128, 128, 0)  # fmt: skip
    head = bytes(SECTOR) + header.ljust(SECTOR, b"\0") + entry.ljust(128 * 128, b"\0")
    return head + partition + bytes(33 * SECTOR)


def fat_partition(files: Mapping[str, bytes]) -> bytes:
    """A FAT16 file system with these files, each name a long one."""
    tree: dict[str, object] = {}
    for path, content in files.items():
        *folders, name = path.split("/")
        at = tree
        for each in folders:
            at = at.setdefault(each, {})  # type: ignore[assignment]
        at[name] = content
    clusters: list[bytes] = []
    table = [0xFFF8, 0xFFFF]

    def store(data: bytes) -> int:
        if not data:
            return 0
        first = len(table)
        pieces = [data[at : at + SECTOR].ljust(SECTOR, b"\0") for at in range(0, len(data), SECTOR)]
        table.extend([*range(first + 1, first + len(pieces)), 0xFFFF])
        clusters.extend(pieces)
        return first

    def folder(members: Mapping[str, object]) -> bytes:
        entries = b""
        for number, (name, value) in enumerate(members.items()):
            inner = isinstance(value, dict)
            content = folder(value) if isinstance(value, dict) else value
            assert isinstance(content, bytes)
            first = store(content)
            entries += _long_name(name)
            entries += struct.pack("<8s3sB8xHHHHI", f"F{number}".encode().ljust(8), b"   ",
                                   0x10 if inner else 0x20, 0, 0, 0, first,
                                   0 if inner else len(content))  # fmt: skip
        return entries

    root = folder(tree).ljust(512 * 32, b"\0")
    table += [0] * (5000 - len(table))
    fat = struct.pack(f"<{len(table)}H", *table)
    fat = fat.ljust(-(-len(fat) // SECTOR) * SECTOR, b"\0")
    sectors = 1 + len(fat) // SECTOR + len(root) // SECTOR + 5000 - 2
    boot = bytearray(SECTOR)
    struct.pack_into("<HBHBHHBH", boot, 11, SECTOR, 1, 1, 1, 512, sectors, 0xF8, len(fat) // SECTOR)
    data = b"".join(clusters)
    return (bytes(boot) + fat + root + data).ljust(sectors * SECTOR, b"\0")


def _long_name(name: str) -> bytes:
    wide = name.encode("utf-16-le")
    wide = wide + b"\0\0" if len(wide) % 26 else wide
    pieces = [wide[at : at + 26].ljust(26, b"\xff") for at in range(0, len(wide), 26)]
    entries = b""
    for number, piece in reversed(list(enumerate(pieces, 1))):
        order = number | (0x40 if number == len(pieces) else 0)
        entries += struct.pack("<B10sBBB12sH4s", order, piece[:10], 0x0F, 0, 0, piece[10:22], 0,
                               piece[22:])  # fmt: skip
    return entries
