"""Firmware volumes of an OVMF image: the two that PCR 0 takes, and the files in them.

Layout: UEFI Platform Initialization 1.7, volume 3 (volume header 3.2.1, file header 3.2.3, sections
2.1.5).  OVMF's flash holds one volume whose only file is compressed (LZMA); its SEC code unpacks it
into RAM, where Tcg2Pei measures the PEI and DXE volumes inside: the bytes hashed are those here.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.guid import ZERO, guid

HINT: Final = "give OVMF's code image, such as /usr/share/OVMF/OVMF_CODE_4M.fd"
FILE_SYSTEMS: Final = (
    guid("8c8ce578-8a3d-4f1c-9935-896185c32dd3"),  # FFS2
    guid("5473c07a-3dcb-4dca-bd6f-1e9689e7349a"),  # FFS3
)
LZMA_SECTION: Final = guid("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
SIGNATURE: Final = b"_FVH"
SIGNATURE_AT: Final = 40
MIN_HEADER: Final = 56
FILE_HEADER, LARGE_FILE_HEADER = 24, 32
LARGE_FILE: Final = 0x01  # file attribute
PAD_FILE: Final = 0xF0
GUID_DEFINED, USER_INTERFACE, VOLUME_IMAGE = 0x02, 0x15, 0x17  # types of sections
MAX_IMAGE: Final = 64 * 1024 * 1024
MAX_UNPACKED: Final = 64 * 1024 * 1024
MAX_DICTIONARY: Final = 64 * 1024 * 1024  # bytes that the decoder may allocate
MAX_COMPRESSED: Final = 16  # compressed sections that are looked into; OVMF has one
MAX_PARTS: Final = 4096  # files or sections of one volume
WHAT: Final = "firmware image"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A firmware volume: its bytes, and the name in its extended header, zero without one."""

    data: bytes
    name: bytes

    @cached_property
    def files(self) -> dict[bytes, bytes]:
        """Content (sections) of each file, by its GUID."""
        return _files(self.data)

    def user_interface(self, file: bytes) -> str | None:
        """Give the name that a file has for people, from its user interface section."""
        for kind, content in _sections(self.files.get(file, b"")):
            if kind == USER_INTERFACE and len(content) % 2 == 0:
                return content.decode("utf-16-le", "replace").rstrip("\0")
        return None


def measured_volumes(image: bytes) -> tuple[Volume, ...]:
    """Give the volumes that OVMF measures into PCR 0, in that order: PEI, then DXE."""
    if len(image) > MAX_IMAGE:
        raise Cursor(b"", WHAT, hint=HINT).broken(f"{len(image)} bytes, more than {MAX_IMAGE}")
    for section in islice(_compressed(image), MAX_COMPRESSED):
        if found := _inner_volumes(section):
            return found
    raise Cursor(image, WHAT, hint=HINT).broken("no compressed volume in it: not OVMF's code")


def _compressed(image: bytes) -> Iterator[bytes]:
    """Give the sections that say by a GUID how they are packed."""
    for volume in _volumes(image):
        for content in _files(volume).values():
            yield from (section for kind, section in _sections(content) if kind == GUID_DEFINED)


def _volumes(image: bytes) -> list[bytes]:
    """Part an image, which is volumes one after the other."""
    found, offset = [], 0
    while offset + MIN_HEADER <= len(image):
        length = _volume_length(image, offset)
        if not length:
            break
        found.append(image[offset : offset + length])
        offset += length
    return found


def _volume_length(image: bytes, offset: int) -> int:
    """Give the size of the volume there, 0 where there is none."""
    if image[offset + SIGNATURE_AT : offset + SIGNATURE_AT + 4] != SIGNATURE:
        return 0
    length = int.from_bytes(image[offset + 32 : offset + 40], "little")
    return length if MIN_HEADER < length <= len(image) - offset else 0


def _inner_volumes(section: bytes) -> tuple[Volume, ...]:
    """Unpack a GUID-defined section and give the volumes in it."""
    cursor = Cursor(section, WHAT, "little", HINT)
    name, start = cursor.take(16, "section GUID"), cursor.u16("data offset")
    if name != LZMA_SECTION:
        return ()
    unpacked = _unpack(section[max(0, start - 4) :])  # counted from the section's own header
    return tuple(
        Volume(data=content, name=_volume_name(content))
        for kind, content in _sections(unpacked)
        if kind == VOLUME_IMAGE and _volume_length(content, 0)
    )


def _unpack(packed: bytes) -> bytes:
    """Unpack LZMA with its 13-byte header (properties, dictionary, size), within bounds."""
    cursor = Cursor(packed, WHAT, "little", HINT)
    cursor.take(1, "LZMA properties")
    dictionary, size = cursor.u32("LZMA dictionary"), cursor.u64("LZMA size")
    if size > MAX_UNPACKED or dictionary > MAX_DICTIONARY:
        raise cursor.broken(f"a compressed section of {size} bytes, dictionary of {dictionary}")
    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=2 * MAX_DICTIONARY)
        unpacked = decoder.decompress(packed, max_length=size)
    except lzma.LZMAError as error:
        raise cursor.broken(f"a compressed section does not unpack: {error}") from None
    if len(unpacked) != size:
        raise cursor.broken(f"a compressed section has {len(unpacked)} bytes, not {size}")
    return unpacked


def _volume_name(volume: bytes) -> bytes:
    """Read the name in the extended header (3.2.2)."""
    extended = int.from_bytes(volume[52:54], "little")
    return volume[extended : extended + 16] if 0 < extended <= len(volume) - 20 else ZERO


def _files(volume: bytes) -> dict[bytes, bytes]:
    """Read the files of a volume with a known file system; padding and free space are none."""
    if volume[16:32] not in FILE_SYSTEMS:
        return {}
    extended = int.from_bytes(volume[52:54], "little")
    offset = int.from_bytes(volume[48:50], "little")
    if 0 < extended <= len(volume) - 20:
        offset = extended + int.from_bytes(volume[extended + 16 : extended + 20], "little")
    found: dict[bytes, bytes] = {}
    for _ in range(MAX_PARTS):
        offset = (offset + 7) & ~7
        header = volume[offset : offset + LARGE_FILE_HEADER]
        if len(header) < FILE_HEADER or header[:FILE_HEADER] == b"\xff" * FILE_HEADER:
            break
        large = header[19] & LARGE_FILE
        size = int.from_bytes(header[24:32] if large else header[20:23], "little")
        start = LARGE_FILE_HEADER if large else FILE_HEADER
        if not start <= size <= len(volume) - offset:
            break
        if header[18] != PAD_FILE:
            found.setdefault(header[:16], volume[offset + start : offset + size])
        offset += size
    return found


def _sections(data: bytes) -> list[tuple[int, bytes]]:
    """Read leaf and encapsulation sections: type and what follows the common header."""
    found: list[tuple[int, bytes]] = []
    offset = 0
    while len(data) - offset >= 4 and len(found) < MAX_PARTS:
        size, start = int.from_bytes(data[offset : offset + 3], "little"), 4
        if size == 0xFFFFFF:  # EFI_COMMON_SECTION_HEADER2
            size, start = int.from_bytes(data[offset + 4 : offset + 8], "little"), 8
        if not start <= size <= len(data) - offset:
            break
        found.append((data[offset + 3], data[offset + start : offset + size]))
        offset = (offset + size + 3) & ~3
    return found
