"""State of one vTPM on disk: two slots, each encrypted, of which the Manager names the newest.

Each launch writes under a key of its own, so whoever has an older copy of the Manager's store, and
the recovery key that opens it, reads no newer states with it.

A write goes to the slot that does not hold the newest state and is synced before the Manager hears
of it, so a crash at any moment leaves the state that the Manager knows.  A slot's file is: magic,
version (64 bits), nonce, ciphertext with its tag; its digest is the SHA-256 of all of it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tandem.errors import HostError, Refused
from tandem.evidence import canonical, record_fields
from tandem.values import Secret

SLOT_NAMES: Final = ("state.0", "state.1")
MAGIC: Final = b"TDMSTAT1"
HEADER: Final = struct.Struct(">8sQ12s")
NONCE_SIZE: Final = 12  # NIST SP 800-38D, 8.2.2; a vTPM is far from 2^32 writes
MAX_SLOT: Final = 1 << 20
TAG: Final = b"TANDEM-VTPM-STATE-1\x00"


@dataclass(frozen=True, kw_only=True)
class VtpmState:
    """What a vTPM keeps between launches; `ek` (RSA) and `ak` are TPMT_PUBLIC."""

    engine: bytes  # libtpms' permanent state
    ek: bytes
    ak: bytes


def open_slots(directory: int, owner: int) -> tuple[int, int]:
    """Open both slots in `directory`, made where missing, and give them to user `owner`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        first, second = (os.open(name, flags, 0o600, dir_fd=directory) for name in SLOT_NAMES)
        for slot in (first, second):
            os.fchown(slot, owner, owner)
        if not all(os.fstat(slot).st_size for slot in (first, second)):
            os.fsync(directory)  # so that what is written into a new slot can be found
    except OSError as error:
        raise HostError(
            "TDM-STATE-UNREADABLE",
            f"the vTPM's state slots cannot be opened: {error.strerror}",
            hint="look at the vTPM's directory: its owner, its mode, its file system",
        ) from error
    return first, second


class StateSlots:
    """Both slots of one vTPM, open; `former` is the key that the newest state was written under."""

    def __init__(
        self, slots: Sequence[int], key: Secret, vtpm_id: bytes, *, former: Secret | None = None
    ) -> None:
        self._slots = slots
        self._cipher = AESGCM(key.reveal())
        self._former = AESGCM((former or key).reveal())
        self._vtpm_id = vtpm_id
        self._next_slot = 0
        self._written = b""  # digest of what was written last
        self.version = 0
        self.digest = b""  # of the newest state that the Manager is known to have recorded

    def read_newest(self, version: int, digest: bytes) -> VtpmState:
        """Give the state that the Manager names; nothing else will do."""
        contents = [self._read(slot) for slot in self._slots]
        for number, content in enumerate(contents):
            if hashlib.sha256(content).digest() == digest:
                state = self._decrypt(content, version)
                self._next_slot = 1 - number
                self.version, self.digest = version, digest
                return state
        raise _why_refused(contents, version)

    def write(self, state: VtpmState) -> bytes:
        """Write the next version and sync it; give its digest, for the Manager to record."""
        version = self.version + 1
        nonce = os.urandom(NONCE_SIZE)
        plain = canonical.encode(record_fields.to_map(state))
        content = HEADER.pack(MAGIC, version, nonce)
        content += self._cipher.encrypt(nonce, plain, self._bound_to(version))
        slot = self._slots[self._next_slot]
        try:
            if os.pwrite(slot, content, 0) != len(content):
                raise _no_space("it took only a part")
            os.ftruncate(slot, len(content))
            os.fsync(slot)
        except OSError as error:
            raise _no_space(error.strerror or "unknown error") from error
        self._written = hashlib.sha256(content).digest()
        return self._written

    def committed(self) -> None:
        """Take note that the Manager recorded what was written last."""
        self.version += 1
        self.digest = self._written
        self._next_slot = 1 - self._next_slot

    def _read(self, slot: int) -> bytes:
        try:
            return os.pread(slot, MAX_SLOT, 0)
        except OSError:
            return b""  # a sector that cannot be read: judged with the other slot

    def _decrypt(self, content: bytes, version: int) -> VtpmState:
        if len(content) < HEADER.size:
            raise _damaged()
        _, _, nonce = HEADER.unpack_from(content)
        try:
            plain = self._former.decrypt(nonce, content[HEADER.size :], self._bound_to(version))
        except InvalidTag:
            raise _damaged() from None
        fields = canonical.decode_map(plain, "vTPM state", MAX_SLOT)
        return record_fields.from_map(VtpmState, fields, "vTPM state")

    def _bound_to(self, version: int) -> bytes:
        return TAG + self._vtpm_id + version.to_bytes(8)


def _why_refused(contents: Sequence[bytes], expected: int) -> Refused:
    versions = [slot_version(content) for content in contents if content]
    if not versions:
        return Refused(
            "TDM-STATE-MISSING",
            f"the vTPM's state is gone: version {expected} is due, both slots are empty",
            hint="restore the newest copy; a vTPM made anew is another TPM and must be asked for",
        )
    if all(version is not None and version < expected for version in versions):
        return Refused(
            "TDM-STATE-OLDER",
            f"the vTPM's state is an older copy: version {expected} is due, not {max(versions)}",  # type: ignore[type-var]
            hint="restore the newest copy: older ones stay closed, whoever restores them",
        )
    return _damaged()


def slot_version(content: bytes) -> int | None:
    """Give the version that a slot's bytes claim; None where they are no slot's."""
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        return None
    return int(HEADER.unpack_from(content)[1])


def _damaged() -> Refused:
    return Refused(
        "TDM-STATE-DAMAGED",
        "the vTPM's state on disk is not what its vTPM wrote last",
        hint="restore the newest copy; its digest is known to the Manager",
    )


def _no_space(reason: str) -> HostError:
    return HostError(
        "TDM-STATE-NOT-WRITTEN",
        f"the vTPM's state could not be written: {reason}",
        hint="make room on the file system of the vTPM directory, then start the guest again",
    )
