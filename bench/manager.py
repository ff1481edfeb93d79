"""The Manager's part of deep quotes, commits and starts, on a pTPM that is slow on purpose.

Each row has its peer on the same pTPM in the same run.  Run it alone by `python -m bench.manager`,
as root.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from bench.closed_loop import Looping, milliseconds_each
from bench.figures import Figure, in_turn, table
from bench.manager_start import start_figures
from bench.managers import running_manager, slow_host
from bench.ptpm_alone import PtpmAlone
from bench.records import records_figures
from peers.faulty_tpm import NV_EXTEND, QUOTE
from tandem.channel import expect
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    AskDeepQuote,
    CommitState,
    DeepQuoted,
    StateCommitted,
)
from tandem.wire.messages import Message
from tests.integration.manager.running_manager import RunningManager, Vtpm

GUESTS: Final = 100
SLOW_QUOTE: Final = 0.25  # seconds; discrete TPMs take 0.1 to 0.5 for an ECC signature
SLOW_UPDATE: Final = 0.05
ASK: Final = AskDeepQuote(vtpm_quote_digest=bytes(32))
PEER_ANSWERS: Final = 8  # of a peer that answers four a second
SECONDS: Final = 4.0
ONE_BY_ONE: Final = "one pTPM quote each"


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", dir="/var/tmp") as directory:
        work = Path(directory)
        work.chmod(0o711)
        print(table(figures(work)))
    return 0


def figures(work: Path) -> list[Figure]:
    """Measure everything there is about the Manager, in new hosts below `work`."""
    work.mkdir(exist_ok=True)
    work.chmod(0o711)
    return [
        *deep_quotes(work / "quotes"),
        commits(work / "commits"),
        *start_figures(work / "starts"),
        *records_figures(work / "records"),
    ]


def deep_quotes(directory: Path) -> list[Figure]:
    """Measure deep quotes of many guests at once, and of one, beside the pTPM alone."""
    directory.mkdir()
    directory.chmod(0o711)
    with (
        slow_host(directory / "ours") as (tpm, host),
        slow_host(directory / "peer") as (peer_tpm, peer_host),
        running_manager(host) as manager,
        running_manager(peer_host, "peers.unbatched_manager") as unbatched,
        PtpmAlone(tpm.path) as alone,
    ):
        ours, theirs = prepared(manager), prepared(unbatched)
        loop = [looping(each, lambda: ASK, DeepQuoted) for each in ours]
        peer_loop = [looping(each, lambda: ASK, DeepQuoted) for each in theirs]
        fast = in_turn(
            lambda: milliseconds_each(loop, seconds=SECONDS / 2),
            lambda: milliseconds_each(peer_loop, seconds=SECONDS / 2),
            5,
        )
        one = in_turn(lambda: lone(ours[0]), alone.quote_milliseconds, 101)
        for each in (tpm, peer_tpm):
            each.delay({QUOTE: SLOW_QUOTE})
        # four guests keep the peer's pTPM as busy as a hundred would, and are done sooner
        peer_slow = partial(milliseconds_each, peer_loop[:4], seconds=60, most=PEER_ANSWERS)
        slow = in_turn(lambda: milliseconds_each(loop, seconds=SECONDS), peer_slow, 3)
        queued = in_turn(lambda: at_once(ours), peer_slow, 3)
        slow_one = in_turn(lambda: lone(ours[0]), alone.quote_milliseconds, 11)
    for tpm_is, (tandem, peer) in {"fast": one, "slow": slow_one}.items():
        more = statistics.median(tandem) - statistics.median(peer)
        print(f"bench: a lone deep quote takes {more:.2f} ms more than the pTPM's own, "
              f"where that is {tpm_is}", file=sys.stderr)  # fmt: skip
    return [
        figure(f"deep_quote_{GUESTS}_slow", ONE_BY_ONE, slow),
        figure(f"deep_quote_{GUESTS}_slow_queued", ONE_BY_ONE, queued),
        figure(f"deep_quote_{GUESTS}_fast", ONE_BY_ONE, fast),
        figure("deep_quote_one_ms_more", "the pTPM's quote", one),
        figure("deep_quote_one_ms_more_slow", "the pTPM's quote", slow_one),
    ]


def commits(directory: Path) -> Figure:
    """Measure acknowledged writes of many vTPMs, on a pTPM that takes 50 ms for the update."""
    with slow_host(directory) as (tpm, host), running_manager(host) as manager:
        vtpms = prepared(manager)
        tpm.delay({NV_EXTEND: SLOW_UPDATE})
        loop = [looping(each, _next_state(), StateCommitted) for each in vtpms]
        measured = in_turn(
            lambda: milliseconds_each(loop, seconds=SECONDS),
            lambda: milliseconds_each(loop[:1], seconds=SECONDS / 2),
            5,
        )
    return figure(f"nv_writes_acked_{GUESTS}", "one extend each", measured)


def prepared(manager: RunningManager) -> list[Vtpm]:
    """Give vTPMs that may ask for deep quotes."""
    vtpms = [manager.vtpm(f"guest-{number}") for number in range(GUESTS)]
    for vtpm in vtpms:
        vtpm.prepare()
    return vtpms


def looping(vtpm: Vtpm, ask: Callable[[], Message], answer: type) -> Looping:
    """Have a vTPM ask again and again."""
    return Looping(vtpm.channel, VTPM_REQUESTS, VTPM_ANSWERS, ask, answer)


def lone(vtpm: Vtpm) -> float:
    """Ask for one deep quote of an idle Manager; gives milliseconds."""
    begun = time.perf_counter()
    vtpm.channel.ask(ASK, DeepQuoted)
    return 1000 * (time.perf_counter() - begun)


def at_once(vtpms: Sequence[Vtpm]) -> float:
    """Have all requests queued before the first of them is read; gives the milliseconds of each.

    What keeps the Manager busy meanwhile, a deep quote of the first guest, is not counted.
    """
    first, *others = vtpms
    first.channel.send(ASK)
    time.sleep(SLOW_QUOTE / 5)  # the Manager is at the pTPM now
    for vtpm in others:
        vtpm.channel.send(ASK)
    expect(first.channel.receive()[0], DeepQuoted)
    begun = time.perf_counter()
    first.channel.send(ASK)
    for vtpm in vtpms:
        expect(vtpm.channel.receive()[0], DeepQuoted)
    return 1000 * (time.perf_counter() - begun) / len(vtpms)


def figure(name: str, peer: str, samples: tuple[tuple[float, ...], tuple[float, ...]]) -> Figure:
    """Make a row, in milliseconds for each."""
    tandem, theirs = samples
    return Figure(name=name, unit="ms", peer_name=peer, tandem=tandem, peer=theirs)


def _next_state() -> Callable[[], CommitState]:
    versions = count(1)

    def ask() -> CommitState:
        version = next(versions)
        return CommitState(version=version, digest=version.to_bytes(32))

    return ask


if __name__ == "__main__":
    sys.exit(main())
