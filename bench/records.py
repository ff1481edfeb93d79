"""A store of 10,000 vTPMs beside one of ten: how long a start takes, and one update."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.figures import Figure, in_turn
from bench.managers import running_manager, slow_host
from tandem.channel import expect
from tandem.wire.manager_rpc import PairOpened
from tests.integration.manager.running_manager import RunningManager, Vtpm, open_pair

MANY: Final = 10_000
FEW: Final = 10
AT_ONCE: Final = 500  # launches opened by one commit, to fill a store
STARTS: Final = 7
UPDATES: Final = 41
REST: Final = 0.06  # seconds between updates: below the ceiling of extends, which is not meant here


def records_figures(directory: Path) -> list[Figure]:
    """Measure both stores in turn."""
    directory.mkdir()
    directory.chmod(0o711)
    with slow_host(directory / "many") as (_, many), slow_host(directory / "few") as (_, few):
        for host, records in ((many, MANY), (few, FEW)):
            with running_manager(host) as manager:
                fill(manager, records)
        starts = in_turn(lambda: start_seconds(many), lambda: start_seconds(few), STARTS)
        with updating(many) as ours, updating(few) as theirs:
            updates = in_turn(ours.milliseconds, theirs.milliseconds, UPDATES)
    return [
        _figure("records_10k_start_s", "s", starts),
        _figure("records_10k_update_ms", "ms", updates),
    ]


def fill(manager: RunningManager, records: int) -> None:
    """Have so many vTPMs recorded, each by a launch that ends at once."""
    for begin in range(0, records, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, records))
        builders = [manager.connect() for _ in numbers]
        for builder, number in zip(builders, numbers, strict=True):
            builder.send(open_pair(f"vtpm-{number}"))
        for builder in builders:
            answer, [descriptor] = builder.receive_any()
            expect(answer, PairOpened)
            socket.close(descriptor)
            builder.close()
        manager.channels.clear()


def start_seconds(host: Path) -> float:
    """Start a host's Manager and end it; gives the seconds until it takes requests."""
    begun = time.perf_counter()
    with running_manager(host):
        return time.perf_counter() - begun


class Updating:
    """A vTPM that changes its state again and again."""

    def __init__(self, vtpm: Vtpm) -> None:
        self._vtpm = vtpm
        self._version = vtpm.welcome.state_version

    def milliseconds(self) -> float:
        """Change it once."""
        time.sleep(REST)
        self._version += 1
        begun = time.perf_counter()
        self._vtpm.commit(self._version)
        return 1000 * (time.perf_counter() - begun)


@contextmanager
def updating(host: Path) -> Iterator[Updating]:
    """Serve a host, and give one of its vTPMs."""
    with running_manager(host) as manager:
        yield Updating(manager.vtpm("vtpm-3"))


def _figure(name: str, unit: str, samples: tuple[tuple[float, ...], tuple[float, ...]]) -> Figure:
    tandem, peer = samples
    return Figure(name=name, unit=unit, peer_name=f"{FEW} records", tandem=tandem, peer=peer)
