"""Directories of a pair: what it has while it runs, and where its vTPM's state lives.

The builder (root) walks into directories that a vTPM may have written to, so it follows no link
and changes the owner of plain files only.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from tandem.errors import HostError

VARIABLES = "variables"
VTPM_STATE = "vtpm"  # of an ephemeral vTPM, below its pair's directory


class Directories:
    """`run/pairs` and `vtpm` of a host."""

    def __init__(self, pairs: Path, vtpms: Path) -> None:
        self._pairs = pairs
        self._vtpms = vtpms
        for each in (pairs, vtpms):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)

    def pair(self, pair_id: str) -> Path:
        """Say where a pair's sockets and logs are."""
        return self._pairs / pair_id

    def pairs(self) -> list[str]:
        """Name every pair that has a directory."""
        return [each.name for each in self._pairs.iterdir()]

    def make_pair(self, pair_id: str) -> Path:
        """Make the pair's directory, the builder's alone."""
        try:
            self.pair(pair_id).mkdir(mode=0o700)
        except OSError as error:
            raise _unusable(self.pair(pair_id), error) from error
        return self.pair(pair_id)

    def remove_pair(self, pair_id: str) -> None:
        """Remove the pair's directory and all in it; links in it are not followed."""
        shutil.rmtree(self.pair(pair_id), ignore_errors=True)

    def open_vtpm(self, vtpm: str, pair_id: str, uid: int, *, ephemeral: bool) -> int:
        """Open the directory of the vTPM's state slots, and give it to the launch's user."""
        path = self.pair(pair_id) / VTPM_STATE if ephemeral else self._vtpms / vtpm
        try:
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            _give(descriptor, uid)
        except OSError as error:
            os.close(descriptor)
            raise _unusable(path, error) from error
        return descriptor

    def variables(self, guest: str) -> Path:
        """Say where a guest's own store of UEFI variables is, where it keeps one."""
        return self._vtpms.parent / VARIABLES / f"{guest}.fd"

    def forget_empty_vtpm(self, vtpm: str) -> None:
        """Remove the directory of a vTPM that never came to have state: its slots are empty."""
        path = self._vtpms / vtpm
        with suppress(OSError):  # it has state, or there is none
            found = list(os.scandir(path))
            if not any(each.stat(follow_symlinks=False).st_size for each in found):
                for each in found:
                    os.unlink(each)
                path.rmdir()


def _give(directory: int, uid: int) -> None:
    """Make `uid` the owner of a directory and of the plain files in it."""
    os.fchown(directory, uid, uid)
    os.fchmod(directory, 0o700)
    for name in os.listdir(directory):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.chown(name, uid, uid, dir_fd=directory, follow_symlinks=False)


def _unusable(path: Path, error: OSError) -> HostError:
    return HostError(
        "TDM-PAIR-DIRECTORY",
        f"cannot use {path}: {error.strerror}",
        hint="free space or correct the host directory, then start again",
    )
