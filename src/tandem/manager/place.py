"""The place of a host's Manager: one process has it, the Manager or a command in its stead."""

from __future__ import annotations

import fcntl
import os

from tandem.errors import HostError
from tandem.settings import HostPaths


def take_place(paths: HostPaths) -> int:
    """Be the only one that has the host's pTPM and store, until the descriptor is closed."""
    descriptor = os.open(paths.manager, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise HostError(
            "TDM-MANAGER-RUNNING",
            f"a Manager of {paths.root} runs already",
            hint="see `tandem host status`; end it with `tandem host down`",
        ) from error
    return descriptor
