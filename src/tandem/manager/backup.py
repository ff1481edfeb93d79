"""A backup: one file with the host's identity, its store and its vTPMs' states, opened by one key.

All of it is encrypted already, under the master key, the groups' or the vTPMs'; the file is sealed
as a whole besides, so that nobody reads names in it, or takes parts out.  Layout: magic, length and
canonical CBOR of a header in clear, then frames of AES-256-GCM in counter order, the last marked.
The key is derived from the master key and the header's salt; the header's identity holds the master
key, wrapped under the recovery key.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tandem.errors import UntrustedInput
from tandem.evidence import canonical, record_fields
from tandem.manager.identity import MAX_IDENTITY, Identity, derive, parse_identity
from tandem.values import SHA256_SIZE, Secret

FORMAT: Final = "tandem-backup-1"
MAGIC: Final = b"TDMBKUP1"
STORE: Final = "store"
STATE: Final = "vtpm/"  # and the vTPM's name, "/", and a number
FRAME: Final = 1 << 20
LAST: Final = 1 << 31  # in a frame's length
TAG_SIZE: Final = 16
MAX_NAME: Final = 256
MAX_MEMBER: Final = 1 << 30
_LENGTH: Final = struct.Struct(">I")
_MEMBER: Final = struct.Struct(">HQ")  # lengths of name and content


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is readable without a key."""

    format: str
    salt: bytes
    created: int  # seconds since 1970
    identity: bytes  # as it was on disk


def backup_purpose(salt: bytes) -> str:
    """Give what a backup's key is derived for."""
    return f"backup {salt.hex()}"


class BackupWriter:
    """Writes a backup, member by member."""

    def __init__(self, file: BinaryIO, header: Header, key: Secret) -> None:
        encoded = canonical.encode(record_fields.to_map(header))
        self._file = file
        self._cipher = AESGCM(key.reveal())
        self._bound_to = hashlib.sha256(MAGIC + encoded).digest()
        self._frames = 0
        self._pending = bytearray()
        file.write(MAGIC + _LENGTH.pack(len(encoded)) + encoded)

    def add(self, name: str, content: bytes) -> None:
        """Add a member."""
        encoded = name.encode()
        self._pending += _MEMBER.pack(len(encoded), len(content)) + encoded + content
        while len(self._pending) > FRAME:
            self._write(bytes(self._pending[:FRAME]), last=False)
            del self._pending[:FRAME]

    def finish(self) -> None:
        """Write what is left, and the mark of the end: a file that was cut does not have it."""
        self._write(bytes(self._pending), last=True)

    def _write(self, content: bytes, *, last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._frames), content, _mark(self._bound_to, last))
        self._file.write(_LENGTH.pack(len(sealed) | (LAST if last else 0)) + sealed)
        self._frames += 1


class BackupReader:
    """Reads a backup that may be anything; nothing is given that is not authentic."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        if self._take(len(MAGIC), "magic") != MAGIC:
            raise self._broken("it does not begin as a backup does")
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size, "header"))
        if length > 2 * MAX_IDENTITY:
            raise self._broken(f"a header of {length} bytes")
        encoded = self._take(length, "header")
        fields = canonical.decode_map(encoded, "backup", 2 * MAX_IDENTITY)
        self.header = record_fields.from_map(Header, fields, "backup")
        if self.header.format != FORMAT or len(self.header.salt) != SHA256_SIZE:
            raise self._broken("another format, or a salt of another length")
        self.identity: Identity = parse_identity(self.header.identity)
        self._bound_to = hashlib.sha256(MAGIC + encoded).digest()

    def members(self, master: Secret) -> Iterator[tuple[str, bytes]]:
        """Give name and content of each member."""
        plain = _Plain(self._frames(master))
        while not plain.at_end:
            name_length, length = _MEMBER.unpack(self._part(plain, _MEMBER.size))
            if name_length > MAX_NAME or length > MAX_MEMBER:
                raise self._broken("a member that is too long")
            name = self._part(plain, name_length).decode("utf-8", "replace")
            yield name, self._part(plain, length)

    def _part(self, plain: _Plain, size: int) -> bytes:
        part = plain.read(size)
        if len(part) != size:
            raise self._broken("it ends inside a member")
        return part

    def _frames(self, master: Secret) -> Iterator[bytes]:
        cipher = AESGCM(derive(master, backup_purpose(self.header.salt)).reveal())
        number, last = 0, False
        while not last:
            (word,) = _LENGTH.unpack(self._take(_LENGTH.size, "frame"))
            last, length = bool(word & LAST), word & ~LAST
            if length > FRAME + TAG_SIZE:
                raise self._broken(f"a frame of {length} bytes")
            sealed = self._take(length, "frame")
            try:
                yield cipher.decrypt(_nonce(number), sealed, _mark(self._bound_to, last))
            except InvalidTag:
                raise self._broken(f"frame {number} was changed") from None
            number += 1
        if self._file.read(1):
            raise self._broken("something follows its end")

    def _take(self, size: int, what: str) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._broken(f"it ends inside its {what}")
        self._at += size
        return data

    def _broken(self, problem: str) -> UntrustedInput:
        return UntrustedInput(
            "TDM-BACKUP-DAMAGED",
            f"the backup: {problem}",
            hint="take another copy of it, or an earlier backup",
            offset=self._at,
        )


class _Plain:
    """The content of frames, read as if it were one."""

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames = frames
        self._held = bytearray()
        self._ended = False

    @property
    def at_end(self) -> bool:
        """Whether nothing is left."""
        self._hold(1)
        return not self._held

    def read(self, size: int) -> bytes:
        """Give the next bytes, fewer where it ends."""
        self._hold(size)
        part = bytes(self._held[:size])
        del self._held[:size]
        return part

    def _hold(self, size: int) -> None:
        while len(self._held) < size and not self._ended:
            frame = next(self._frames, None)
            self._ended = frame is None
            self._held += frame or b""


def _nonce(number: int) -> bytes:
    return number.to_bytes(12)


def _mark(bound_to: bytes, last: bool) -> bytes:
    return bound_to + bytes([last])
