"""`make bench`: every benchmark, one table, and `.cache/bench.json` for programs."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench import broker, deaths, guest_boot, manager, many_starts, vtpm
from bench.figures import Figure, merge_into, table
from demo import good_run
from demo.stage import Stage
from tandem.evidence.envelope import open_envelope, parse_public_key
from tandem.evidence.manifest import PAYLOAD_TYPE, GuestEntry, parse_manifest

BOOTS: Final = 7
DEATHS: Final = 25
ROUNDS: Final = 3  # of many guests at once
MANAGER: Final = (sys.executable, "-m", "tandem.manager")


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--image", type=Path, required=True, help="directory of the guest image")
    parser.add_argument("--output", type=Path, default=Path(".cache/bench.json"))
    parser.add_argument("--boots", type=int, default=BOOTS, help="boots of each side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", dir="/var/tmp") as directory:
        work = Path(directory)
        work.chmod(0o711)
        stage = Stage(host=work / "host", work=work, image=arguments.image.resolve())
        figures = [*vtpms(stage), *managers(work), *brokers(), *boots(stage, arguments.boots)]
    print(table(figures))
    merge_into(arguments.output, figures)
    return 0


def vtpms(stage: Stage) -> list[Figure]:
    """Measure vTPMs alone, on a real Manager."""
    say("vTPM: creation, start, memory, round trips")
    stage.tandem("host", "init", "--approval-key", stage.work / "approval.key")
    return vtpm.figures(stage.host, MANAGER)


def managers(work: Path) -> list[Figure]:
    """Measure the Manager on a pTPM that is slowed down."""
    say("Manager: deep quotes, commits, starts and records, beside one pTPM command for each")
    return manager.figures(work / "manager")


def brokers() -> list[Figure]:
    """Measure the broker on a host of its own."""
    say("broker: commands of one program, beside tpm2-abrmd")
    return broker.figures()


def boots(stage: Stage, runs: int) -> list[Figure]:
    """Measure guests, each booted by the builder and by hand."""
    say(f"guests: {runs} boots of each side")
    stage.tandem("host", "up")
    try:
        good_run.sign_library(stage)
        ours = guest_boot.TandemBoots(stage.host, good_run.GUEST)
        theirs = guest_boot.PlainBoots(
            entry_of(stage), stage.host / "library", stage.work / "plain"
        )
        figures = guest_boot.figures(ours, theirs, runs)
        more = statistics.median(figures[0].tandem) - statistics.median(figures[0].peer)
        builder = statistics.median(ours.builder_milliseconds)
        say(f"a guest boots {more:.0f} ms later, after {builder:.0f} ms of the builder's own")
        say(f"{DEATHS} deaths of each half, and {many_starts.GUESTS} guests at once")
        figures += deaths.figures(
            deaths.Deaths(stage.host, good_run.GUEST),
            deaths.PlainDeaths(stage.work / "deaths"),
            DEATHS,
        )
        return figures + many_starts.figures(
            many_starts.ManyStarts(stage.host, good_run.GUEST), ROUNDS
        )
    finally:
        stage.tandem("host", "down")


def entry_of(stage: Stage) -> GuestEntry:
    """Read the entry that both sides boot."""
    envelope = (stage.host / "library" / "library.dsse.json").read_bytes()
    key = parse_public_key((stage.work / "library.key.pub").read_bytes())
    manifest = parse_manifest(open_envelope(envelope, PAYLOAD_TYPE, [key]).payload)
    entry = manifest.entries[good_run.GUEST]
    if not isinstance(entry, GuestEntry):
        raise TypeError("the demo's entry is a guest")
    return entry


def say(text: str) -> None:
    """Print progress beside the table."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
