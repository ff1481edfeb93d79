"""Archive of an initramfs: the "newc" form that Linux unpacks at boot (initramfs buffer format).

The same entries give the same bytes: no times, no owners, inodes counted, names sorted.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

MAGIC: Final = "070701"
TRAILER: Final = "TRAILER!!!"
ALIGNMENT: Final = 4  # bytes, of each header with its name and of each content


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file, directory, symbolic link or device; `path` has no leading slash."""

    path: str
    mode: int  # st_mode: type and permissions
    data: bytes = b""
    device: tuple[int, int] = (0, 0)  # major, minor


def directory(path: str) -> Entry:
    """Make a directory."""
    return Entry(path=path, mode=stat.S_IFDIR | 0o755)


def file(path: str, data: bytes, *, executable: bool = False) -> Entry:
    """Make a regular file."""
    return Entry(path=path, mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)


def link(path: str, target: str) -> Entry:
    """Make a symbolic link."""
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    """Make a character device."""
    return Entry(path=path, mode=stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Write the archive, with every directory that an entry needs before it."""
    named = {entry.path: entry for entry in entries}
    parents = {
        str(parent) for path in named for parent in PurePosixPath(path).parents if parent.name
    }
    complete = {path: directory(path) for path in parents} | named
    ordered = [complete[path] for path in sorted(complete)]
    return b"".join(_members([*ordered, Entry(path=TRAILER, mode=0)]))


def _members(entries: Iterable[Entry]) -> Iterator[bytes]:
    for inode, entry in enumerate(entries, start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (
            *(inode, entry.mode, 0, 0, links, 0, len(entry.data)),  # owner, group and time are 0
            *(0, 0, *entry.device, len(name), 0),  # device of the archive, rdev, name, no checksum
        )
        header = MAGIC + "".join(f"{field:08X}" for field in fields)
        yield _padded(header.encode() + name)
        yield _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
