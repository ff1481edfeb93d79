"""The directories of a new host: made where missing, taken away where nothing comes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tandem.errors import HostError
from tandem.settings import HostPaths

EMBEDDED: Final = "embedded"
SIMULATOR: Final = "simulator:"
REACHABLE: Final = 0o711  # what others own below stays reachable by them, not listed
PRIVATE: Final = 0o700


@contextmanager
def made_directories(paths: HostPaths) -> Iterator[None]:
    """Make what is missing; what is made in this scope is taken away again where it fails."""
    wanted = {
        paths.root: REACHABLE,
        paths.manager: PRIVATE,
        paths.builder: PRIVATE,
        paths.vtpm: REACHABLE,
        paths.run: REACHABLE,
    }
    made: list[Path] = []
    try:
        for path in [each for each in wanted if each == paths.manager or not each.exists()]:
            path.parent.mkdir(mode=REACHABLE, parents=True, exist_ok=True)
            path.mkdir(mode=wanted[path])
            made.append(path)
        if not paths.ptpm.exists():
            made.append(paths.ptpm)  # nobody else makes it, for `manager` is this call's
        yield
    except BaseException as error:  # an interrupt, too
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise _not_written(paths, error) from error
        raise


def _not_written(paths: HostPaths, error: OSError) -> HostError:
    return HostError(
        "TDM-HOST-DIRECTORY",
        f"cannot write {error.filename or paths.root}: {error.strerror}",
        hint="make room there, or name another directory with --host",
    )


def require_reachable(paths: HostPaths) -> None:
    """Refuse a place that the Manager's own user cannot reach."""
    way = (paths.root, *paths.root.parents)
    shut = [path for path in way if not path.stat().st_mode & 0o001]
    if shut:
        raise HostError(
            "TDM-HOST-UNREACHABLE",
            f"{shut[0]} is closed to other users, so the Manager, which is not root, cannot reach "
            f"{paths.root}",
            hint="choose a directory below /var/lib or /var/tmp with --host",
        )


def device_name(text: str) -> str:
    """Give the pTPM as the identity keeps it: a path in it does not depend on where one stands."""
    if text == EMBEDDED:
        return text
    kind = SIMULATOR if text.startswith(SIMULATOR) else ""
    return kind + os.path.abspath(text.removeprefix(kind))
