"""PE/COFF image (PE specification, revision 11): its sections, Authenticode digest and signatures.

A boot loader, a kernel and a unified kernel image are each one; PCR 4 takes the digest that
firmware computes here (Windows Authenticode Portable Executable Signature Format, "Calculating the
PE Image Hash").  An image whose sections claim more bytes than its file has is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tandem.evidence.cursor import Cursor

HINT: Final = "give an EFI application: a boot loader, a kernel or a unified kernel image"
DOS_MAGIC: Final = b"MZ"
PE_MAGIC: Final = b"PE\0\0"
PE_POINTER: Final = 0x3C
PE32, PE32_PLUS = 0x10B, 0x20B  # magic of the optional header
DIRECTORIES_AT: Final = {PE32: 96, PE32_PLUS: 112}
CHECKSUM_AT: Final = 64  # in the optional header, of either magic
CHECKSUM_SIZE: Final = 4
HEADERS_SIZE_AT: Final = 60
SUBSYSTEM_AT: Final = 68
EFI_APPLICATION: Final = 10
SECURITY_DIRECTORY: Final = 4
DIRECTORY_SIZE: Final = 8
SECTION_SIZE: Final = 40
MAX_SECTIONS: Final = 96
PKCS_SIGNED_DATA: Final = 0x0002  # WIN_CERTIFICATE.wCertificateType
CERTIFICATE_HEADER: Final = 8


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section: its name without padding, and where it is in the file and in memory."""

    name: bytes
    address: int
    memory_size: int
    offset: int
    file_size: int


@dataclass(frozen=True, kw_only=True)
class PeImage:
    """An image; offsets are in `data`."""

    data: bytes
    subsystem: int
    headers_size: int
    checksum_at: int
    security_entry_at: int | None  # None: the image has no such directory
    security: tuple[int, int]  # offset and size of the attribute certificate table
    sections: tuple[Section, ...]

    def content(self, section: Section) -> bytes:
        """Give a section as it stands in memory: cut or filled with zeros to its size there."""
        stored = min(section.file_size, section.memory_size)
        found = self.data[section.offset : section.offset + stored]
        return found + bytes(section.memory_size - len(found))

    def section(self, name: bytes) -> Section | None:
        """Give the last section whose name begins with `name`, as systemd's stub finds it."""
        found = [each for each in self.sections if each.name.startswith(name)]
        return found[-1] if found else None

    def authenticode(self, bank: str) -> bytes:
        """Give the digest that firmware measures and that a signature is over."""
        digest = hashlib.new(bank, self.data[: self.checksum_at])
        after_checksum = self.checksum_at + CHECKSUM_SIZE
        if self.security_entry_at is None:
            digest.update(self.data[after_checksum : self.headers_size])
        else:
            digest.update(self.data[after_checksum : self.security_entry_at])
            after_entry = self.security_entry_at + DIRECTORY_SIZE
            digest.update(self.data[after_entry : self.headers_size])
        hashed = self.headers_size
        for each in sorted(self.sections, key=lambda section: section.offset):
            digest.update(self.data[each.offset : each.offset + each.file_size])
            hashed += each.file_size
        end = len(self.data) - self.security[1]
        if hashed < end:
            digest.update(self.data[hashed:end])
        return digest.digest()

    @property
    def signatures(self) -> tuple[bytes, ...]:
        """The PKCS #7 structures of the attribute certificate table, as far as it is whole."""
        found, (offset, size) = [], self.security
        end = offset + size
        while end - offset > CERTIFICATE_HEADER:
            length = int.from_bytes(self.data[offset : offset + 4], "little")
            kind = int.from_bytes(self.data[offset + 6 : offset + 8], "little")
            if not CERTIFICATE_HEADER < length <= end - offset:
                break
            if kind == PKCS_SIGNED_DATA:
                found.append(_without_padding(self.data[offset + CERTIFICATE_HEADER :
                                                        offset + length]))  # fmt: skip
            offset += (length + 7) & ~7
        return tuple(found)


def parse_pe(data: bytes, what: str = "EFI application") -> PeImage:
    """Read the headers of an image, or refuse it."""
    cursor = Cursor(data, what, "little", HINT)
    if cursor.take(len(DOS_MAGIC), "DOS header") != DOS_MAGIC:
        raise cursor.broken("no PE image: it does not begin with MZ")
    cursor.seek(PE_POINTER)
    cursor.seek(cursor.u32("offset of the PE header"))
    if cursor.take(len(PE_MAGIC), "PE header") != PE_MAGIC:
        raise cursor.broken("no PE image: it has no PE signature")
    cursor.take(2, "machine")
    count = cursor.u16("number of sections")
    cursor.take(12, "time stamp and symbols")
    optional_size = cursor.u16("size of the optional header")
    cursor.take(2, "characteristics")
    optional = cursor.offset
    magic = cursor.u16("magic of the optional header")
    if magic not in DIRECTORIES_AT or count > MAX_SECTIONS:
        raise cursor.broken(f"optional header of magic {magic:#x}, {count} sections")
    cursor.seek(optional + HEADERS_SIZE_AT)
    headers_size = cursor.u32("size of headers")
    cursor.seek(optional + SUBSYSTEM_AT)
    subsystem = cursor.u16("subsystem")
    entry_at, security = _security(cursor, optional + DIRECTORIES_AT[magic])
    cursor.seek(optional + optional_size)
    sections = tuple(_section(cursor) for _ in range(count))
    image = PeImage(
        data=data,
        subsystem=subsystem,
        headers_size=headers_size,
        checksum_at=optional + CHECKSUM_AT,
        security_entry_at=entry_at,
        security=security,
        sections=tuple(each for each in sections if each.file_size or each.memory_size),
    )
    _refuse_oversized(image, cursor)
    return image


def _without_padding(der: bytes) -> bytes:
    """Cut what follows a DER element: tables are padded to eight bytes."""
    if len(der) < 2 or der[1] & 0x7F > 4:
        return der
    count = der[1] & 0x7F if der[1] & 0x80 else 0
    size = int.from_bytes(der[2 : 2 + count]) if count else der[1]
    return der[: 2 + count + size]


def _security(cursor: Cursor, directories: int) -> tuple[int | None, tuple[int, int]]:
    """Read the entry of the attribute certificate table; its address is an offset in the file."""
    cursor.seek(directories - 4)
    if cursor.u32("number of directories") <= SECURITY_DIRECTORY:
        return None, (0, 0)
    entry_at = directories + SECURITY_DIRECTORY * DIRECTORY_SIZE
    cursor.seek(entry_at)
    offset, size = cursor.u32("certificate table"), cursor.u32("size of the certificate table")
    if offset + size > len(cursor.data):
        raise cursor.broken(f"a certificate table of {size} bytes at {offset} passes the end")
    return entry_at, (offset, size)


def _section(cursor: Cursor) -> Section:
    """Read a section header (PE specification, section 4)."""
    name = cursor.take(8, "section name").rstrip(b"\0")
    memory_size, address = cursor.u32("virtual size"), cursor.u32("virtual address")
    file_size, offset = cursor.u32("raw size"), cursor.u32("raw offset")
    cursor.take(SECTION_SIZE - 24, "relocations and characteristics")
    return Section(
        name=name,
        address=address,
        memory_size=memory_size,
        offset=offset if file_size else 0,
        file_size=file_size,
    )


def _refuse_oversized(image: PeImage, cursor: Cursor) -> None:
    """Refuse what would make hashing or copying cost more than the file's own size."""
    size = len(image.data)
    stored = image.headers_size + sum(each.file_size for each in image.sections)
    in_memory = sum(each.memory_size for each in image.sections)
    passing = [each for each in image.sections if each.offset + each.file_size > size]
    if stored > size or passing or in_memory > 2 * size + (64 << 20):
        raise cursor.broken("its sections have more bytes than its file")
