"""Files that a source names: digested, and copied into the library where they are elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.builder.inputs import MAX_INPUT, digest
from tandem.errors import HostError
from tandem.evidence.launch import Blob
from tandem.evidence.strict_json import Place

BLOBS: Final = "blobs"
MAX_PATH: Final = 4095  # bytes: PATH_MAX of Linux, less its end


@dataclass(frozen=True, kw_only=True)
class LibraryFiles:
    """The files of the library in `directory`; without `copies`, nothing is written there."""

    directory: Path
    copies: bool = True

    def take(self, place: Place) -> dict[str, object]:
        """Digest the file that a source names, and give it as a manifest has it."""
        path = self.directory / place.text(MAX_PATH)
        try:
            blob = _digest(path)
            inside = path.resolve().is_relative_to(self.directory.resolve())
            if inside:
                within = path.resolve().relative_to(self.directory.resolve())
            else:
                within = self._copied(path, blob)
        except OSError as error:
            raise HostError(
                "TDM-LIBRARY-FILE",
                f"{place.what}: {place.path}: cannot take {str(path)[:200]!a} into the library: "
                f"{error.strerror}",
                hint="correct the path in the source, install the package that has the file, or "
                "make room below the library",
            ) from error
        return {
            "path": str(within),
            "size": blob.size,
            "sha256": blob.sha256.hex(),
            "sha384": blob.sha384.hex(),
        }

    def _copied(self, path: Path, blob: Blob) -> Path:
        within = Path(BLOBS, blob.sha256.hex()[:16], path.name)
        if self.copies:
            (self.directory / within).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.directory / within)
        return within


def _digest(path: Path) -> Blob:
    """Hash a plain file, unless it is larger than a launch takes: a sparse one costs nothing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        if not 0 < status.st_size <= MAX_INPUT:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, not 1 to {MAX_INPUT}")
        return digest(descriptor)
    finally:
        os.close(descriptor)
