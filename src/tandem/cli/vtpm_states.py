"""The vTPMs' states on disk, as a backup takes them and a restore puts them back.

Root works here in directories that vTPMs may write to, so no link is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.values import NAME_PATTERN
from tandem.vtpm.state import HEADER, MAX_SLOT, SLOT_NAMES, slot_version

ASIDE: Final = ".before-restore"  # what a restore does not use stays under such a name
NEVER: Final = -1


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """The content of one slot, the whole or its head."""

    content: bytes

    @property
    def version(self) -> int | None:
        """The version that it claims; None where it is no state."""
        return slot_version(self.content)

    @property
    def digest(self) -> bytes:
        """The digest by which the Manager knows a whole one."""
        return hashlib.sha256(self.content).digest()


class States:
    """The states of a host's vTPMs, read while vTPMs write."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[int, ...]] = {}  # versions, as taken last
        self.torn: set[str] = set()  # vTPMs of which the last `take_new` may have missed a version

    def take_new(self) -> Iterator[tuple[str, SlotState]]:
        """Give what each vTPM has that was not given before."""
        self.torn.clear()
        for vtpm in vtpm_names(self._directory):
            if self._moved(vtpm):
                slots = read_slots(self._directory, vtpm)
                self._note(vtpm, slots)
                yield from ((vtpm, slot) for slot in slots)

    def _moved(self, vtpm: str) -> bool:
        heads = read_slots(self._directory, vtpm, HEADER.size)
        return _versions(heads) != self._seen.get(vtpm, (NEVER,))

    def _note(self, vtpm: str, slots: list[SlotState]) -> None:
        versions = _versions(slots)
        before = self._seen.get(vtpm, versions)
        if before and versions and min(versions) > max(before) + 1:
            self.torn.add(vtpm)
        self._seen[vtpm] = versions


def vtpm_names(directory: Path) -> list[str]:
    """Name the vTPMs that have a directory."""
    if not directory.is_dir():
        return []
    found = [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    return sorted(name for name in found if NAME_PATTERN.fullmatch(name))


def read_slots(directory: Path, vtpm: str, most: int = MAX_SLOT) -> list[SlotState]:
    """Read a vTPM's slots; one that is empty, or no plain file, is left out."""
    found = []
    with _opened(directory, vtpm) as place:
        for name in SLOT_NAMES:
            with suppress(OSError):
                slot = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
                try:
                    if stat.S_ISREG(os.fstat(slot).st_mode):
                        found.append(SlotState(content=os.pread(slot, most, 0)))
                finally:
                    os.close(slot)
    return [slot for slot in found if slot.content]


def has_state(directory: Path, vtpm: str) -> bool:
    """Whether there is anything in a vTPM's slots."""
    return vtpm in vtpm_names(directory) and bool(read_slots(directory, vtpm, HEADER.size))


def newest_two(slots: list[SlotState]) -> list[SlotState]:
    """Give the two states of the highest versions."""
    return sorted(slots, key=lambda slot: slot.version or NEVER)[-len(SLOT_NAMES) :]


def put_back(directory: Path, vtpm: str, contents: list[bytes]) -> None:
    """Give a vTPM these states, and keep what it had beside them."""
    directory.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        (directory / vtpm).mkdir(mode=0o700)
    with _opened(directory, vtpm) as place:
        for name in SLOT_NAMES:
            with suppress(FileNotFoundError):
                os.rename(name, name + ASIDE, src_dir_fd=place, dst_dir_fd=place)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        for name, content in zip(SLOT_NAMES, contents, strict=False):
            slot = os.open(name, flags, 0o600, dir_fd=place)
            with os.fdopen(slot, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(slot)
        os.fsync(place)


def _versions(slots: list[SlotState]) -> tuple[int, ...]:
    return tuple(sorted(slot.version for slot in slots if slot.version is not None))


@contextmanager
def _opened(directory: Path, vtpm: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    place = os.open(directory / vtpm, flags)
    try:
        yield place
    finally:
        os.close(place)
