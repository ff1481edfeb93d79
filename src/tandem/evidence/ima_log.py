"""IMA list of the kernel: which files were run or read, and how each entry was extended.

Both forms that securityfs gives are read: `binary_runtime_measurements` (integers little-endian)
and `ascii_runtime_measurements`.  A template says which fields an entry has (Linux,
Documentation/security/IMA-templates.rst); what is extended is the hash of those fields, or all
ones where the kernel could not measure what it let happen: a violation.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tandem.errors import UntrustedInput
from tandem.evidence.cursor import Cursor
from tandem.values import SHA256_SIZE

IMA_REGISTER: Final = 10  # CONFIG_IMA_MEASURE_PCR_IDX
MAX_IMA_LOG: Final = 64 * 1024 * 1024
MAX_ENTRIES: Final = 500_000
MAX_TEMPLATE: Final = 32
SHA1_SIZE: Final = 20
OLD_NAME_SIZE: Final = 256  # IMA_EVENT_NAME_LEN_MAX and its zero, which "ima" hashes whole
OLD: Final = "ima"
FIELDS: Final = {  # by template: how many fields; digest and path come first
    OLD: 2,
    "ima-ng": 2,
    "ima-ngv2": 2,
    "ima-sig": 3,
    "ima-sigv2": 3,
    "ima-buf": 3,
    "ima-modsig": 5,
}
_TEMPLATE_HASHES: Final = {SHA1_SIZE: "sha1", SHA256_SIZE: "sha256"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImaEntry:
    """One measurement; `data` is what the kernel hashed for it."""

    offset: int  # of its first byte in the list
    register: int
    template: str
    template_digest: bytes  # as the list has it: SHA-1 as a rule, zeros in a violation
    data: bytes
    digest: str  # of the file, as "sha256:..."
    path: str

    @property
    def violates(self) -> bool:
        """Whether the kernel let happen what it could not measure."""
        return not any(self.template_digest)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """How far a list explains a register: by its first `entries` entries."""

    entries: int
    padded: bool  # the kernel extended SHA-1 digests, padded: before Linux 5.8


def parse_ima_log(data: bytes) -> tuple[ImaEntry, ...]:
    """Read a list of either form; an entry whose digest is not of its fields is refused."""
    cursor = Cursor(data, "IMA list", "little")
    if cursor.left > MAX_IMA_LOG:
        raise cursor.broken(f"{cursor.left} bytes, more than {MAX_IMA_LOG}")
    is_binary = data[3:4] == b"\0"  # a register's number; text has a blank or a digit there
    entries: list[ImaEntry] = []
    for entry in _binary_entries(cursor) if is_binary else _text_entries(cursor):
        if len(entries) == MAX_ENTRIES:
            raise cursor.broken(f"more than {MAX_ENTRIES} entries")
        entries.append(_consistent(entry))
    return tuple(entries)


def replay_ima(
    entries: Sequence[ImaEntry], value: bytes, register: int = IMA_REGISTER
) -> Replayed | None:
    """Find the first entries that extend a SHA-256 register from zero to `value`.

    The list grows while it is read, so it may hold more than a quote made before.
    """
    hashed = padded = bytes(SHA256_SIZE)
    if value == hashed:
        return Replayed(entries=0, padded=False)
    for count, entry in enumerate(entries, 1):
        if entry.register != register:
            continue
        hashed = hashlib.sha256(hashed + _extended(entry)).digest()
        padded = hashlib.sha256(padded + _extended_by_sha1(entry)).digest()
        if value in (hashed, padded):
            return Replayed(entries=count, padded=value != hashed)
    return None


def _extended(entry: ImaEntry) -> bytes:
    return b"\xff" * SHA256_SIZE if entry.violates else hashlib.sha256(entry.data).digest()


def _extended_by_sha1(entry: ImaEntry) -> bytes:
    short = b"\xff" * SHA1_SIZE if entry.violates else entry.template_digest[:SHA1_SIZE]
    return short + bytes(SHA256_SIZE - len(short))


def _consistent(entry: ImaEntry) -> ImaEntry:
    """Refuse fields that are not those of the digest: only one of the two was extended."""
    algorithm = _TEMPLATE_HASHES[len(entry.template_digest)]
    found = hashlib.new(algorithm, entry.data, usedforsecurity=False).digest()
    if not entry.violates and found != entry.template_digest:
        raise UntrustedInput(
            "TDM-IMA-LIST-ALTERED",
            f"IMA list: the entry of {entry.path[:200]!a} does not have the digest of its fields",
            hint="read the list again from the kernel; do not edit it",
            offset=entry.offset,
        )
    return entry


def _binary_entries(cursor: Cursor) -> Iterator[ImaEntry]:
    while cursor.left:
        offset, register = cursor.offset, cursor.u32("PCR")
        digest = cursor.take(SHA1_SIZE, "template digest")
        name = cursor.take(_length(cursor, MAX_TEMPLATE, "template name"), "template name")
        template = name.decode("ascii", "backslashreplace")
        count = _fields_of(cursor, template)
        if template == OLD:
            first = cursor.take(SHA1_SIZE, "file digest")
            second = cursor.take(_length(cursor, OLD_NAME_SIZE, "path"), "path")
            fields = [first, second]
        else:
            whole = cursor.take(cursor.u32("template data size"), "template data")
            fields = _sized_fields(cursor, whole, count)
        yield _entry(offset, register, digest, template, fields)


def _text_entries(cursor: Cursor) -> Iterator[ImaEntry]:
    for line in cursor.data.splitlines(keepends=True):
        offset = cursor.offset
        words = cursor.take(len(line), "line").rstrip(b"\r\n").split(b" ", 3)
        if len(words) < 4 or not words[0].isdigit() or len(words[0]) > 3:
            raise cursor.broken("a line without PCR, digest, template and fields")
        digest = _hexadecimal(cursor, words[1])
        if len(digest) not in _TEMPLATE_HASHES:
            raise cursor.broken(f"a template digest of {len(digest)} bytes")
        template = words[2].decode("ascii", "backslashreplace")
        count = _fields_of(cursor, template)
        fields = words[3].split(b" ", count - 1)
        fields += [b""] * (count - len(fields))  # an empty signature is nothing at all
        first, path, *others = fields
        measured = [_text_field(cursor, each) for each in (first, *others)]
        measured.insert(1, path[:OLD_NAME_SIZE] if template == OLD else path + b"\0")
        yield _entry(offset, int(words[0]), digest, template, measured)


def _entry(
    offset: int, register: int, digest: bytes, template: str, fields: Sequence[bytes]
) -> ImaEntry:
    """Put together what the kernel hashed: fields with their sizes, or the fixed ones of "ima"."""
    if template == OLD:
        data = fields[0] + fields[1].ljust(OLD_NAME_SIZE, b"\0")
        said = f"sha1:{fields[0].hex()}"
    else:
        data = b"".join(len(each).to_bytes(4, "little") + each for each in fields)
        algorithm, _, value = fields[0].rpartition(b":\0")
        said = f"{algorithm[:32].decode('ascii', 'backslashreplace')}:{value[:64].hex()}"
    return ImaEntry(
        offset=offset,
        register=register,
        template=template,
        template_digest=digest,
        data=data,
        digest=said,
        path=fields[1].rstrip(b"\0").decode("utf-8", "backslashreplace"),
    )


def _sized_fields(cursor: Cursor, whole: bytes, count: int) -> list[bytes]:
    inner = Cursor(whole, "IMA template data", "little")
    fields = [inner.take(inner.u32("field size"), "field") for _ in range(count)]
    if inner.left:
        raise cursor.broken(f"{inner.left} bytes after the last field of an entry")
    return fields


def _fields_of(cursor: Cursor, template: str) -> int:
    if template not in FIELDS:
        raise cursor.broken(f"template {template[:MAX_TEMPLATE]!a} is unknown")
    return FIELDS[template]


def _length(cursor: Cursor, most: int, field: str) -> int:
    size = cursor.u32(f"{field} size")
    if size > most:
        raise cursor.broken(f"{field} of {size} bytes, more than {most}")
    return size


def _text_field(cursor: Cursor, word: bytes) -> bytes:
    """Read digits, or a digest after its algorithm's name."""
    algorithm, colon, value = word.rpartition(b":")
    return (algorithm + b":\0" if colon else b"") + _hexadecimal(cursor, value)


def _hexadecimal(cursor: Cursor, word: bytes) -> bytes:
    try:
        return binascii.unhexlify(word)
    except (binascii.Error, ValueError):
        raise cursor.broken("digits that are not hexadecimal") from None
