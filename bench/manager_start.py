"""The Manager's part of a pair's start, on a pTPM that takes 50 ms for each command.

It is all that a pair's start waits for the Manager: the launch is opened, the vTPM gets its key and
its certificates, and its first state of this launch is recorded.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final

from bench.figures import Figure, in_turn
from bench.managers import running_manager, slow_host
from peers.faulty_tpm import EVERY
from tests.integration.manager.running_manager import RunningManager

COMMAND: Final = 0.05  # seconds, each command of the pTPM
AT_ONCE: Final = 20
RUNS: Final = 9
PEER: Final = "each certificate by the pTPM"


def start_figures(directory: Path) -> list[Figure]:
    """Measure starts of new and of known vTPMs, one and twenty at once."""
    directory.mkdir()
    directory.chmod(0o711)
    with (
        slow_host(directory / "ours") as (tpm, host),
        slow_host(directory / "peer") as (peer_tpm, peer_host),
        running_manager(host) as manager,
        running_manager(peer_host, "peers.certifying_manager") as peer,
    ):
        for each in (manager, peer):
            for number in range(AT_ONCE):
                start(each, f"known-{number}")
        for slow in (tpm, peer_tpm):
            slow.delay({EVERY: COMMAND})
        known = in_turn(lambda: start(manager, "known-0"), lambda: start(peer, "known-0"), RUNS)
        names = (f"new-{number}" for number in count())
        new = in_turn(lambda: start(manager, next(names)), lambda: start(peer, next(names)), RUNS)
        many = in_turn(lambda: start_many(manager), lambda: start_many(peer), 3)
    return [
        Figure(name=name, unit="ms", peer_name=PEER, tandem=ours, peer=theirs)
        for name, (ours, theirs) in {
            "manager_start_ms": known,
            "manager_start_ms_new": new,
            f"manager_start_ms_{AT_ONCE}_at_once": many,
        }.items()
    ]


def start(manager: RunningManager, name: str) -> float:
    """Start one vTPM; gives milliseconds, without those of its keys and of its end."""
    begun = time.perf_counter()
    vtpm = manager.vtpm(name)
    vtpm.prepare()
    vtpm.commit(vtpm.welcome.state_version + 1)
    taken = time.perf_counter() - begun
    vtpm.channel.close()
    return 1000 * taken


def start_many(manager: RunningManager) -> float:
    """Start known vTPMs all at once; gives the milliseconds until the last one is ready."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = time.perf_counter()
        list(pool.map(lambda number: start(manager, f"known-{number}"), range(AT_ONCE)))
        return 1000 * (time.perf_counter() - begun)
