"""Disks whose content is not copied: opened once, and handed to the hypervisor as they are.

What vouches for the content is elsewhere: dm-verity in the guest, with a root hash that was
measured; fs-verity in the host's kernel, which checks each read of a file that can no longer
change; or nothing, for data.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tandem.builder.inputs import SealedInput, opened
from tandem.errors import HostError, Refused
from tandem.evidence.guest_entry import ROOT_HASH, Disk, DiskKind
from tandem.values import SHA256_SIZE

MEASURE_VERITY: Final = 0xC0046686  # FS_IOC_MEASURE_VERITY, linux/fsverity.h
FSVERITY_SHA256: Final = 1  # FS_VERITY_HASH_ALG_SHA256
DIGEST: Final = struct.Struct(f"=HH{SHA256_SIZE}s")  # struct fsverity_digest


def open_disk(directory: Path, disk: Disk) -> int:
    """Open a disk's file, following no link on the way; the caller closes it.

    Refused when another guest writes to it, or when fs-verity has another digest of it.
    """
    with opened(directory, disk.path) as found, ExitStack() as undo:
        flags = os.O_RDONLY if disk.read_only else os.O_RDWR
        descriptor = os.open(f"/proc/self/fd/{found}", flags | os.O_CLOEXEC)
        undo.callback(os.close, descriptor)
        if disk.digest is not None:
            require_digest(descriptor, disk, disk.digest)
        if disk.kind is DiskKind.DATA:
            lock(descriptor, disk.path)
        undo.pop_all()
    return descriptor


def lock(descriptor: int, path: str) -> None:
    """Take a file for one guest; the lock is the open file's, and ends with the hypervisor's."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Refused(
            "TDM-DISK-BUSY",
            f"another guest uses {path!a}, and two systems that write to one disk destroy it",
            hint="end the other guest, or give each an entry with a file of its own",
        ) from error


def require_digest(descriptor: int, disk: Disk, digest: bytes) -> None:
    """Refuse a file of which the kernel's fs-verity has another digest, or none."""
    if kernels_digest(descriptor, disk) != digest:
        raise Refused(
            "TDM-DISK-DIFFERS",
            f"{disk.path!a} is not the file whose fs-verity digest the library has",
            hint="restore the file, or sign the library anew if the change is meant",
        )


def kernels_digest(descriptor: int, disk: Disk) -> bytes:
    """Ask the kernel for the digest that it checks a file's reads against."""
    request = bytearray(DIGEST.pack(FSVERITY_SHA256, SHA256_SIZE, bytes(SHA256_SIZE)))
    try:
        fcntl.ioctl(descriptor, MEASURE_VERITY, request)
    except OSError as error:
        if error.errno == errno.EOVERFLOW:
            return b""  # a longer digest, of another algorithm
        raise HostError(
            "TDM-DISK-NO-FSVERITY",
            f"the kernel vouches for nothing in {disk.path!a}: {error.strerror}",
            hint="switch it on with `fsverity enable FILE`, on a file system that has the feature "
            "(ext4, btrfs, f2fs), or measure the disk as an image",
        ) from error
    algorithm, size, digest = DIGEST.unpack(request)
    return bytes(digest[:size]) if algorithm == FSVERITY_SHA256 else b""


def require_root_hash(disk: Disk, measured: Iterable[SealedInput]) -> None:
    """Refuse a dm-verity disk whose root hash stands in no measured input: nothing would use it.

    Where the command line is within a UKI or on a measured disk, it is there as plain text.
    """
    if disk.root_hash is None:
        return
    wanted = f"{ROOT_HASH}{disk.root_hash.hex()}".encode("ascii")
    for each in measured:
        with mmap.mmap(each.descriptor, each.blob.size, access=mmap.ACCESS_READ) as content:
            if content.find(wanted) >= 0:
                return
    raise Refused(
        "TDM-DISK-UNCHECKED",
        f"no measured input of the entry has {ROOT_HASH}{disk.root_hash.hex()[:16]}..., so the "
        f"guest would not check disk {disk.id}",
        hint=f"put {ROOT_HASH} with the disk's root hash on the command line in the UKI",
    )
