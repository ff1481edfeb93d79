"""`make model`: visit every state that pairs can reach; see that no row of the table is idle."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

from model.explore import Explored, explore
from model.invariants import check
from model.steps import Bounds, Steps
from model.world import Side, World
from tandem.builder.lifecycle import TABLE

LEAST: Final = Bounds(launches=1)  # enough for every row of the table to be met


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is explored: how many guests, within which bounds, how deep."""

    name: str
    guests: int
    bounds: Bounds
    depth: int | None = None  # None: until nothing is left

    def run(self) -> Explored:
        """Explore."""
        world = World(sides=(Side(),) * self.guests)
        return explore(world, Steps(self.bounds), check, depth=self.depth)


SEARCHES: Final = (
    Search(name="one guest, launched twice", guests=1, bounds=Bounds(asks=1)),
    Search(name="one guest, asked twice to end", guests=1, bounds=LEAST),
    Search(name="two guests", guests=2, bounds=Bounds(), depth=14),
)


def unnoticed() -> list[str]:
    """Give the rows whose absence no search would notice; there should be none."""
    rows = []
    for row in TABLE:
        without = {each: step for each, step in TABLE.items() if each != row}
        if not explore(World(), Steps(LEAST, without), check).violation:
            rows.append(f"{row[0]}, {row[1]}")
    return rows


def main() -> int:
    """Explore, and print what was counted; the exit status is 1 where a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    arguments = parser.parse_args()
    begun = time.monotonic()
    results = {}
    for search in SEARCHES:
        say(f"{search.name} ...")
        results[search.name] = search.run()
    say(f"the table without each of its {len(TABLE)} rows ...")
    idle = unnoticed()
    seconds = time.monotonic() - begun
    if arguments.json:
        counts = {name: asdict(each) for name, each in results.items()}
        print(json.dumps({"searches": counts, "unnoticed": idle, "seconds": round(seconds, 1)}))
    else:
        print("\n".join([*map(line, results.items()), last_line(idle, seconds)]))
    return 1 if idle or any(each.violation for each in results.values()) else 0


def line(named: tuple[str, Explored]) -> str:
    """Say what one search met."""
    name, found = named
    reach = "every state" if found.whole else f"every state within {found.depth} steps"
    head = f"{name}: {found.states:,} states, {found.steps:,} steps, {reach}"
    if not found.violation:
        return f"{head}: I1 to I5 hold"
    steps = "\n".join(f"  {number:3} {step}" for number, step in enumerate(found.trace, 1))
    return f"{head}: BROKEN, {found.violation}\n{steps}"


def last_line(idle: list[str], seconds: float) -> str:
    """Say what removing rows showed."""
    told = f"NOT noticed: {'; '.join(idle)}" if idle else "each noticed"
    return f"{len(TABLE)} rows of the table removed, one at a time: {told} ({seconds:.0f} s in all)"


def say(text: str) -> None:
    """Print progress."""
    print(f"model: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
