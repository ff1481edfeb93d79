"""Inputs of a launch: each file opened once, copied into a sealed memfd, and hashed there.

What was hashed can no longer change (F_SEAL_WRITE), and that same descriptor goes to the
hypervisor.  Sealed inputs are kept for the next launch, as long as the file on disk is the one they
were copied from.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.errors import HostError, Refused, UntrustedInput
from tandem.evidence.launch import Blob
from tandem.evidence.manifest_file import ManifestFile
from tandem.hypervisor.descriptors import file_identity

SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MAX_INPUT: Final = 4 << 30  # of one file: it is held in memory
MAX_KEPT: Final = 1 << 30  # bytes of memory that kept inputs may take
BLOCK: Final = 1 << 20
OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class SealedInput:
    """A memfd whose content is the measured one, for ever; its owner closes it."""

    descriptor: int
    blob: Blob


class InputStore:
    """Sealed inputs by file and expected digest; used from several threads."""

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self._max_kept = max_kept
        self._kept: OrderedDict[tuple[tuple[int, ...], bytes], SealedInput] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, directory: Path, file: ManifestFile) -> SealedInput:
        """Give the file's content, checked against the manifest, as a descriptor of the caller's.

        Refused when it differs; UntrustedInput when it is no plain file; HostError when it cannot
        be read, or memory is short.
        """
        with self._lock, opened(directory, file.path) as source:
            _check_size(os.fstat(source).st_size, file)
            key = file_identity(source), file.sha256 + file.sha384
            if key not in self._kept:
                self._keep(key, _sealed_copy(source, file))
            self._kept.move_to_end(key)
            kept = self._kept[key]
            return SealedInput(descriptor=_duplicate(kept.descriptor), blob=kept.blob)

    def close(self) -> None:
        """Let go of all that is kept."""
        with self._lock:
            while self._kept:
                os.close(self._kept.popitem()[1].descriptor)

    def _keep(self, key: tuple[tuple[int, ...], bytes], sealed: SealedInput) -> None:
        self._kept[key] = sealed
        while sum(each.blob.size for each in self._kept.values()) > self._max_kept:
            if len(self._kept) == 1:
                return
            os.close(self._kept.popitem(last=False)[1].descriptor)


@contextmanager
def opened(directory: Path, path: str) -> Iterator[int]:
    """Open a plain file below `directory`, following no symbolic link on the way."""
    *parents, name = path.split("/")
    descriptors: list[int] = []
    try:
        at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        descriptors.append(at)
        for parent in parents:
            at = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            descriptors.append(at)
        descriptors.append(os.open(name, OPEN_FLAGS, dir_fd=at))
        if not stat.S_ISREG(os.fstat(descriptors[-1]).st_mode):
            raise _not_plain(path)
        yield descriptors[-1]
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _not_plain(path) from error
        raise HostError(
            "TDM-INPUT-UNREADABLE",
            f"cannot read {path!a} below {directory}: {error.strerror}",
            hint="put the file back where the library was signed, or sign the library anew",
        ) from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def read_small(path: Path, limit: int) -> bytes:
    """Read a plain file of at most `limit` bytes."""
    with opened(path.parent, path.name) as descriptor:
        return read_descriptor(descriptor, path, limit)


def read_descriptor(descriptor: int, path: Path, limit: int) -> bytes:
    """Read an open file of at most `limit` bytes; `path` is what it was opened by."""
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise UntrustedInput(
            "TDM-FILE-TOO-LARGE",
            f"{path} has {size} bytes, more than {limit}",
            hint="give the file of the kind asked for",
            offset=limit,
        )
    return os.pread(descriptor, limit, 0)


def digest(descriptor: int) -> Blob:
    """Hash what a descriptor holds, from its start."""
    sha256, sha384, offset = hashlib.sha256(), hashlib.sha384(), 0
    while block := os.pread(descriptor, BLOCK, offset):
        sha256.update(block)
        sha384.update(block)
        offset += len(block)
    return Blob(size=offset, sha256=sha256.digest(), sha384=sha384.digest())


def _check_size(size: int, file: ManifestFile) -> None:
    """Refuse a wrong size before anything is copied: a sparse file costs its owner nothing."""
    if size != file.size:
        raise _differs(file, f"has {size} bytes, not {file.size}")
    if size > MAX_INPUT:
        raise Refused(
            "TDM-INPUT-TOO-LARGE",
            f"{file.path!a} has {size} bytes, more than the {MAX_INPUT} that fit a launch",
            hint="keep large data on a disk that dm-verity covers, not in an initrd",
        )


def _sealed_copy(source: int, file: ManifestFile) -> SealedInput:
    memory = os.memfd_create(Path(file.path).name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = file.size
        while left and (copied := os.sendfile(memory, source, file.size - left, left)):
            left -= copied
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
        blob = digest(memory)
        if not _equal(blob, file.blob):
            raise _differs(file, f"has SHA-256 {blob.sha256.hex()}, not {file.sha256.hex()}")
    except OSError as error:
        os.close(memory)
        raise HostError(
            "TDM-INPUT-NOT-COPIED",
            f"cannot hold {file.path!a} in memory: {error.strerror}",
            hint="free memory, or give the host more",
        ) from error
    except Refused:
        os.close(memory)
        raise
    return SealedInput(descriptor=memory, blob=blob)


def _equal(found: Blob, expected: Blob) -> bool:
    same = hmac.compare_digest(found.sha256, expected.sha256)
    return hmac.compare_digest(found.sha384, expected.sha384) and same


def _duplicate(descriptor: int) -> int:
    """Open the memfd anew: read-only, with an offset of its own."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def _differs(file: ManifestFile, how: str) -> Refused:
    return Refused(
        "TDM-INPUT-DIFFERS",
        f"{file.path!a} {how}: it is not the file that the library was signed for",
        hint="restore the file, or sign the library anew if the change is meant",
    )


def _not_plain(path: str) -> UntrustedInput:
    return UntrustedInput(
        "TDM-INPUT-NOT-PLAIN",
        f"{path!a} is not a plain file in plain directories",
        hint="replace links, devices and pipes in the library with the files they stand for",
        offset=0,
    )
