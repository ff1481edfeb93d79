"""Twenty guests started at once from one library entry: none fails, and the builder spends little.

The builder's own time for one guest is the processor time of its process over all twenty starts,
divided by twenty; measuring, hashing and waiting for others are in it as far as it does them.  It
stands beside the limit of the design, for nothing else builds guests this way.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.figures import Figure
from tandem.cli.builder_client import BuilderClient
from tandem.wire.builder_rpc import StartGuest, StopGuest

GUESTS: Final = 20
LIMIT_MS: Final = 30.0
USER_TIME_FIELD: Final = 14  # proc(5), /proc/pid/stat; system time follows


class ManyStarts:
    """Guests of one entry on a running host, whose inputs a first guest has brought in."""

    def __init__(self, host: Path, entry: str) -> None:
        self._host = host
        self._entry = entry
        self._names = [f"many-{number}" for number in range(GUESTS)]

    def sample(self) -> float:
        """Start all at once and stop them; gives the builder's milliseconds for each."""
        with self._first():
            begun = self._builder_seconds()
            with ThreadPoolExecutor(GUESTS) as pool:
                running = list(pool.map(self._start, self._names))
            spent = self._builder_seconds() - begun
            with ThreadPoolExecutor(GUESTS) as pool:
                list(pool.map(self._stop, self._names))
        if running != ["running"] * GUESTS:
            raise AssertionError(f"of {GUESTS} guests some do not run: {running}")
        return 1000 * spent / GUESTS

    @contextmanager
    def _first(self) -> Iterator[None]:
        """Keep one guest of the entry running."""
        self._start("first")
        try:
            yield
        finally:
            self._stop("first")

    def _start(self, name: str) -> str:
        with BuilderClient(self._host) as builder:
            request = StartGuest(name=name, entry=self._entry, manifest="", keys=())
            [pair] = builder.start(request, lambda _step, _microseconds: None)
        state: str = pair["state"]
        return state

    def _stop(self, name: str) -> None:
        with BuilderClient(self._host) as builder:
            builder.stop(StopGuest(name=name, kill=True, seconds=0))

    def _builder_seconds(self) -> float:
        """Give the processor time of the builder's process, all its threads."""
        pid = json.loads((self._host / "run" / "builder.pid").read_text())["pid"]
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()  # the name may hold spaces; field 3 is the first
        user, system = (int(fields[USER_TIME_FIELD - 3 + more]) for more in (0, 1))
        return (user + system) / os.sysconf("SC_CLK_TCK")


def figures(ours: ManyStarts, runs: int) -> list[Figure]:
    """Start twenty guests some times over; the first round makes their vTPMs."""
    ours.sample()
    begun = time.monotonic()
    samples = tuple(ours.sample() for _ in range(runs))
    each = (time.monotonic() - begun) / runs
    print(f"bench: {GUESTS} guests started and stopped in {each:.1f} s", flush=True)
    return [Figure(name="builder_time_of_one_of_20_starts", unit="ms", peer_name="limit",
                   tandem=samples, peer=(LIMIT_MS,))]  # fmt: skip
