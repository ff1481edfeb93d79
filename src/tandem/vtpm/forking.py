"""Children: one that lives a life of its own, and one that makes something and is gone."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from tandem.errors import UNEXPECTED_EXIT_STATUS, HostError


def fork(live: Callable[[], int]) -> int:
    """Fork a child that lives `live` and nothing after it; give its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(live())
        except BaseException:  # noqa: BLE001 - the child's main: it never returns from here
            traceback.print_exc()
            os._exit(UNEXPECTED_EXIT_STATUS)
    return pid


def made_in_child(make: Callable[[], bytes]) -> bytes:
    """Give what `make` gives in a child: whatever it imports and leaves in memory ends there."""
    reading, writing = os.pipe()
    with open(reading, "rb") as product:
        try:
            pid = fork(lambda: _deliver(make, writing))
        finally:
            os.close(writing)
        made = product.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise HostError(
            "TDM-ZYGOTE-NOT-READY",
            "a part of the zygote's preparation failed",
            hint="standard error says why; look at the Python packages cffi and pyseccomp",
        )
    return made


def _deliver(make: Callable[[], bytes], writing: int) -> int:
    with open(writing, "wb") as product:
        product.write(make())
    return 0
