"""What is done to a host while no Manager runs, in the Manager's place and as its user.

Root reaches the pTPM; a child process without root does the rest, for the directory that it works
in is the Manager's, who could have put links there.
"""

from __future__ import annotations

import datetime
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from tandem.errors import HostError, TandemError
from tandem.evidence import canonical, record_fields
from tandem.manager.host import OpenPtpm, reach_ptpm
from tandem.manager.place import take_place
from tandem.manager.warm_up import warm_up
from tandem.privileges import drop_privileges, hide_memory
from tandem.settings import UID_BASE, HostPaths
from tandem.wire.messages import Failed, failure

MAX_ANSWER: Final = 512 * 1024 * 1024  # a whole store
REACHABLE: Final = 0o711

Answer = Mapping[str, object]


@contextmanager
def in_place_of_manager(paths: HostPaths, ptpm: str) -> Iterator[OpenPtpm]:
    """Have the host's pTPM, where no Manager has it."""
    lock = take_place(paths)
    try:
        paths.run.mkdir(mode=REACHABLE, exist_ok=True)
        opened = reach_ptpm(paths, ptpm)
        try:
            yield opened
            opened.ptpm.close()
        finally:
            opened.close()
    finally:
        os.close(lock)


def as_manager(work: Callable[[], Answer]) -> dict[str, Any]:
    """Do something as the Manager's user, in a child process; gives what it gives.

    Errors: those of `work`, as they were raised there.
    """
    warm_up(datetime.datetime.now(datetime.UTC))  # what is imported late, the child cannot read
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _do(work, writing)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            answer = pipe.read(MAX_ANSWER)
    finally:
        os.waitpid(child, 0)  # an interrupt, which the child got too, ends it at a whole step
    if not answer:
        raise HostError(
            "TDM-OFFLINE-ENDED",
            "the work on the host's secrets ended before it was done",
            hint="see what was printed before this, then `tandem host up`: what was half done is "
            "taken back or completed; where the host starts, `tandem host rotate` shows another "
            "recovery key",
        )
    fields = canonical.decode_map(answer, "answer", MAX_ANSWER)
    failed = fields.get("failed")
    if isinstance(failed, dict):
        raise record_fields.from_map(Failed, failed, "failure").as_error()
    return fields


def _do(work: Callable[[], Answer], writing: int) -> None:
    """Do the work in the child, which never returns from here."""
    status = 1
    try:
        drop_privileges(UID_BASE)
        hide_memory()
        try:
            answer = dict(work())
        except TandemError as error:
            answer = {"failed": record_fields.to_map(failure(error))}
        with open(writing, "wb") as pipe:
            pipe.write(canonical.encode(answer))
        status = 0
    finally:
        if status:  # a defect or an interrupt: the parent only sees that nothing came
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)
