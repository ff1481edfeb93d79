"""The Manager's part of a deep quote: requests that wait together, against one after another.

The peer is the same Manager asked by one guest at a time, so each request has a quote of the pTPM
to itself.  Run it by `python -m bench.manager`, as root.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.figures import Figure, in_turn, table
from tandem.channel import expect
from tandem.wire.manager_rpc import AskDeepQuote, DeepQuoted
from tests.integration.manager.running_manager import RunningManager, Vtpm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GUESTS: Final = 100
RUNS: Final = 9
ASK: Final = AskDeepQuote(vtpm_quote_digest=bytes(32))


def main() -> int:
    """Measure and print."""
    with running_manager() as manager:
        print(table(figures(manager)))
    return 0


@contextmanager
def running_manager() -> Iterator[RunningManager]:
    """Make a host with an embedded pTPM and run its Manager."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", dir="/var/tmp") as directory:
        work = Path(directory)
        work.chmod(0o711)
        host = work / "host"
        subprocess.run([sys.executable, "-m", "tandem", "--host", host, "host", "init"], check=True)
        manager = RunningManager(host)
        manager.start()
        try:
            yield manager
        finally:
            manager.close()


def figures(manager: RunningManager) -> list[Figure]:
    """Measure deep quotes of many guests, and changes of state that are made durable."""
    vtpms = [manager.vtpm(f"guest-{number}") for number in range(GUESTS)]
    for vtpm in vtpms:
        vtpm.prepare()
    committed = [0] * GUESTS
    quotes = in_turn(lambda: at_once(vtpms), lambda: one_by_one(vtpms), RUNS)
    commits = in_turn(
        lambda: commit_at_once(vtpms, committed), lambda: commit_one_by_one(vtpms, committed), RUNS
    )
    return [
        figure(f"deep_quote_{GUESTS}", *quotes),
        figure(f"nv_writes_acked_{GUESTS}", *commits),
    ]


def figure(name: str, ours: tuple[float, ...], theirs: tuple[float, ...]) -> Figure:
    """Make a row; one request at a time is the peer."""
    return Figure(name=name, unit="ms", peer_name="one by one", tandem=ours, peer=theirs)


def at_once(vtpms: Sequence[Vtpm]) -> float:
    """Ask for all guests before reading any answer; gives milliseconds."""
    begun = time.perf_counter()
    for vtpm in vtpms:
        vtpm.channel.send(ASK)
    for vtpm in vtpms:
        expect(vtpm.channel.receive()[0], DeepQuoted)
    return 1000 * (time.perf_counter() - begun)


def one_by_one(vtpms: Sequence[Vtpm]) -> float:
    """Ask for one guest after the other; gives milliseconds."""
    begun = time.perf_counter()
    for vtpm in vtpms:
        vtpm.channel.ask(ASK, DeepQuoted)
    return 1000 * (time.perf_counter() - begun)


def commit_at_once(vtpms: Sequence[Vtpm], committed: list[int]) -> float:
    """Let all vTPMs change their state together; gives milliseconds."""
    begun = time.perf_counter()
    for number, vtpm in enumerate(vtpms):
        committed[number] += 1
        vtpm.send_commit(committed[number])
    for vtpm in vtpms:
        vtpm.receive_commit()
    return 1000 * (time.perf_counter() - begun)


def commit_one_by_one(vtpms: Sequence[Vtpm], committed: list[int]) -> float:
    """Let one vTPM after the other change its state; gives milliseconds."""
    begun = time.perf_counter()
    for number, vtpm in enumerate(vtpms):
        committed[number] += 1
        vtpm.commit(committed[number])
    return 1000 * (time.perf_counter() - begun)


if __name__ == "__main__":
    sys.exit(main())
