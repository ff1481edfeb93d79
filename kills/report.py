"""What a campaign met, added up over its hosts, as JSON and as text.  Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

HALVES: Final = {
    "vtpm": "guest's end to vTPM gone",
    "hypervisor": "vTPM's end to guest gone",
}


@dataclass(kw_only=True)
class Report:
    """Counts of one host, or of all; times are seconds."""

    moments: int = 0
    kills: Counter[str] = field(default_factory=Counter)  # by role
    bursts: int = 0  # after each of which every guest ran and wrote again
    launches: int = 0
    acknowledged: int = 0  # writes
    ended: dict[str, list[float]] = field(default_factory=dict)  # by half: it outlived the other
    refused: Counter[str] = field(default_factory=Counter)  # by guests' TPMs
    failed: Counter[str] = field(default_factory=Counter)  # requests to builders
    ended_alone: Counter[str] = field(default_factory=Counter)  # services, by exit status
    longest_stall: float = 0.0  # by which the watching itself came late
    violations: list[dict[str, str]] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Give what a host's process writes for the others to add up."""
        return dict(vars(self))


def added_up(records: Sequence[dict[str, Any]]) -> Report:
    """Make one report of several hosts'."""
    total = Report()
    for record in records:
        for name, value in record.items():
            if name == "longest_stall":
                total.longest_stall = max(total.longest_stall, value)
            elif name == "ended":
                for half, seconds in value.items():
                    total.ended.setdefault(half, []).extend(seconds)
            elif isinstance(value, dict):
                getattr(total, name).update(value)
            else:
                setattr(total, name, getattr(total, name) + value)
    return total


def summary(report: Report, seed: str, seconds: float) -> dict[str, Any]:
    """Give what `--json` prints: times as median and maximum."""
    record = report.as_record()
    record["ended"] = {
        half: {
            "count": len(times),
            "median": round(statistics.median(times), 4),
            "longest": round(max(times), 4),
        }
        for half, times in report.ended.items()
        if times
    }
    rate = round(report.moments / seconds, 2) if seconds else 0.0
    return {"seed": seed, "seconds": round(seconds, 1), "moments_per_second": rate, **record}


def lines(done: dict[str, Any]) -> Iterator[str]:
    """Give the text of a summary."""
    kills = ", ".join(f"{count:,} {role}" for role, count in sorted(done["kills"].items()))
    yield f"{done['moments']:,} moments, {sum(done['kills'].values()):,} processes killed ({kills})"
    yield (
        f"{done['launches']:,} launches, {done['acknowledged']:,} acknowledged writes, "
        f"{done['bursts']:,} times all was well again"
    )
    for half, text in HALVES.items():
        if half in done["ended"]:
            times = done["ended"][half]
            yield (
                f"{text}: median {1000 * times['median']:.0f} ms, longest "
                f"{1000 * times['longest']:.0f} ms, {times['count']:,} times"
            )
    broken = Counter(each["rule"] for each in done["violations"])
    told = ", ".join(f"{count} {rule}" for rule, count in broken.items()) or "none"
    yield f"violations: {told}"
    yield (
        f"seed {done['seed']}, {done['seconds']:.0f} s, "
        f"{done['moments_per_second']} moments a second"
    )
