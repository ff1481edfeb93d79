"""`make model`: visit every state that pairs can reach; see that no row of the table is idle."""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

from model.explore import Explored, explore
from model.invariants import check
from model.steps import Bounds, Steps
from model.world import Side, World
from tandem.builder.lifecycle import TABLE, Event, State

LEAST: Final = tuple(  # enough, tried one after the other, for every row of the table to be met
    Bounds(launches=1, asks=asks, wishes=wishes, builder_deaths=0, manager_deaths=manager)
    for asks, wishes, manager in ((1, 0, 1), (1, 1, 0), (0, 2, 0), (2, 0, 0))
)


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


ONE_END: Final = Bounds(asks=1, wishes=0)
ONE_WISH: Final = Bounds(asks=0, wishes=1)
SEARCHES: Final = (
    Search(name="one guest, launched once, one end, one wish", guests=1,
           bounds=Bounds(launches=1, asks=1, wishes=1)),
    Search(name="one guest, launched twice, one wish", guests=1, bounds=ONE_WISH),
    Search(name="one guest, launched twice, one end", guests=1, bounds=ONE_END),
    Search(name="one guest, asked twice to end", guests=1,
           bounds=Bounds(launches=1, asks=2, wishes=0)),
    Search(name="two guests", guests=2, bounds=Bounds(), depth=14),
)  # fmt: skip


def noticed(row: tuple[State, Event]) -> bool:
    """Whether a search meets that a row of the table is not there."""
    without = {each: step for each, step in TABLE.items() if each != row}
    return any(explore(World(), Steps(bounds, without), check).violation for bounds in LEAST)


def main() -> int:
    """Explore, and print what was counted; the exit status is 1 where a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    arguments = parser.parse_args()
    begun = time.monotonic()
    with ProcessPoolExecutor() as pool:
        searching = {search.name: pool.submit(search.run) for search in SEARCHES}
        removing = {row: pool.submit(noticed, row) for row in TABLE}
        results = {}
        for name, search in searching.items():
            say(f"{name} ...")
            results[name] = search.result()
        say(f"the table without each of its {len(TABLE)} rows ...")
        idle = [f"{row[0]}, {row[1]}" for row, found in removing.items() if not found.result()]
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
