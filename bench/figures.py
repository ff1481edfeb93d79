"""One figure: samples of Tandem and of its peer, taken in turn, and how they compare."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Sample = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A row of the table; both sides in one unit, smaller is better."""

    name: str
    unit: str
    peer_name: str
    tandem: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of Tandem over median of the peer."""
        return statistics.median(self.tandem) / statistics.median(self.peer)

    def as_record(self) -> dict[str, str | float]:
        """Give the row as `bench.json` holds it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "tandem": statistics.median(self.tandem),
            "peer_name": self.peer_name,
            "peer": statistics.median(self.peer),
            "ratio": self.ratio,
        }


def in_turn(tandem: Sample, peer: Sample, runs: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Take samples alternately, so that a drift of the machine meets both alike."""
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(tandem())
        theirs.append(peer())
    return tuple(ours), tuple(theirs)


def table(figures: Sequence[Figure]) -> str:
    """Lay figures out for a person: median (lowest to highest) of both sides, ratio, runs."""
    heads = ("figure", "unit", "tandem", "peer", "", "ratio", "runs")
    rows = [heads, *(_cells(each) for each in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def merge_into(path: Path, figures: Sequence[Figure]) -> None:
    """Write rows into `bench.json`; rows of other benchmarks stay as they are."""
    rows = json.loads(path.read_text()) if path.exists() else []
    fresh = {each.name for each in figures}
    kept = [row for row in rows if row["name"] not in fresh]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept + [each.as_record() for each in figures], indent=1) + "\n")


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        figure.unit,
        _spread(figure.tandem),
        _spread(figure.peer),
        figure.peer_name,
        f"{figure.ratio:.3f}",
        str(len(figure.tandem)),
    )


def _spread(samples: Sequence[float]) -> str:
    low, high = min(samples), max(samples)
    return f"{statistics.median(samples):.4g} ({low:.4g} to {high:.4g})"
