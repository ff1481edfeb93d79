"""What a service counts and measures, and how it is told: Prometheus' text format, or JSON.

Each process declares its metrics once; counting one that is not declared is an error of ours.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from tandem.evidence.strict_json import Place, parse_json

MAX_RECORDS: Final = 1 << 20  # bytes
METRICS_MOST: Final = 200
SAMPLES_MOST: Final = 1000
LABELS_MOST: Final = 8
COUNT_MOST: Final = 1 << 63
_NAME: Final = re.compile("[a-z][a-z0-9_]{0,80}")
_BOUND: Final = re.compile("[0-9][0-9.e+-]{0,20}")
Labels = tuple[tuple[str, str], ...]
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Kind(StrEnum):
    """The kinds of Prometheus' text format 0.0.4."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: what it is called, and what it says."""

    name: str
    kind: Kind
    help: str
    buckets: tuple[float, ...] = ()  # upper bounds, of a histogram


@dataclass
class Histogram:
    """How many values fell below each bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)  # one more than bounds: those above all of them
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def as_record(self) -> dict[str, object]:
        """Give it as JSON has it: buckets are cumulative, as Prometheus wants them."""
        totals = list(accumulate(self.counts))
        buckets = {f"{bound:g}": total for bound, total in zip(self.bounds, totals, strict=False)}
        return {"count": totals[-1], "sum": round(self.sum, 6), "buckets": buckets}


class Metrics:
    """The values of one process' metrics."""

    def __init__(self, declared: Iterable[Metric]) -> None:
        self._declared = {metric.name: metric for metric in declared}
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in self._declared}
        self._histograms: dict[str, dict[Labels, Histogram]] = {name: {} for name in self._declared}

    def add(self, name: str, by: float = 1, **labels: str) -> None:
        """Count something that happened."""
        values = self._values[name]
        key = tuple(sorted(labels.items()))
        values[key] = values.get(key, 0) + by

    def set(self, name: str, value: float, **labels: str) -> None:
        """Say how much there is now, or was counted elsewhere."""
        self._values[name][tuple(sorted(labels.items()))] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into a histogram."""
        key = tuple(sorted(labels.items()))
        histograms = self._histograms[name]
        if key not in histograms:
            histograms[key] = Histogram(self._declared[name].buckets)
        histograms[key].observe(value)

    def as_records(self) -> list[dict[str, Any]]:
        """Give everything as JSON has it, in the order of declaration."""
        return [
            {
                "name": metric.name,
                "kind": str(metric.kind),
                "help": metric.help,
                "samples": self._samples(metric),
            }
            for metric in self._declared.values()
        ]

    def write(self, path: Path) -> None:
        """Write everything to a file, whole or not at all."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(self.as_records()))
        beside.replace(path)

    def _samples(self, metric: Metric) -> list[dict[str, Any]]:
        if metric.kind is Kind.HISTOGRAM:
            return [
                {"labels": dict(labels), **histogram.as_record()}
                for labels, histogram in sorted(self._histograms[metric.name].items())
            ]
        return [
            {"labels": dict(labels), "value": value}
            for labels, value in sorted(self._values[metric.name].items())
        ]


def parse_records(data: bytes, what: str) -> list[dict[str, Any]]:
    """Read what another process wrote; nothing in it can end a line of the text format early."""
    root = parse_json(data, what, "TDM-METRICS-BAD", MAX_RECORDS)
    return [_parsed_metric(place) for place in root.items(METRICS_MOST)]


def _parsed_metric(place: Place) -> dict[str, Any]:
    fields = place.fields(("name", "kind", "help", "samples"))
    kind = fields["kind"].one_of(*map(str, Kind))
    parse = _parsed_histogram if kind == Kind.HISTOGRAM else _parsed_value
    return {
        "name": _matching(fields["name"], _NAME),
        "kind": kind,
        "help": fields["help"].text(200),
        "samples": [parse(sample) for sample in fields["samples"].items(SAMPLES_MOST)],
    }


def _parsed_value(place: Place) -> dict[str, Any]:
    fields = place.fields(("labels", "value"))
    return {"labels": _parsed_labels(fields["labels"]), "value": _parsed_number(fields["value"])}


def _parsed_histogram(place: Place) -> dict[str, Any]:
    fields = place.fields(("labels", "count", "sum", "buckets"))
    buckets = fields["buckets"].typed(dict)
    return {
        "labels": _parsed_labels(fields["labels"]),
        "count": fields["count"].integer(0, COUNT_MOST),
        "sum": _parsed_number(fields["sum"]),
        "buckets": {
            _matching(fields["buckets"].at(bound, "bound"), _BOUND): fields["buckets"]
            .at(count, "count")
            .integer(0, COUNT_MOST)
            for bound, count in list(buckets.items())[:SAMPLES_MOST]
        },
    }


def _parsed_labels(place: Place) -> dict[str, str]:
    labels = place.typed(dict)
    return {
        _matching(place.at(name, "name"), _NAME): place.at(value, "value").text(100)
        for name, value in list(labels.items())[:LABELS_MOST]
    }


def _parsed_number(place: Place) -> float:
    if type(place.value) not in (int, float) or not abs(place.value) <= COUNT_MOST:
        place.refuse("not a finite number")
    return float(place.value)


def _matching(place: Place, pattern: re.Pattern[str]) -> str:
    found = place.text(100)
    if not pattern.fullmatch(found):
        place.refuse(f"{found!a} has no place in a metric's name or bounds")
    return found


def prometheus_text(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Write records in Prometheus' text format 0.0.4."""
    return "".join(line + "\n" for metric in metrics for line in _lines(metric))


def _lines(metric: Mapping[str, Any]) -> list[str]:
    name, kind = metric["name"], metric["kind"]
    help_text = metric["help"].replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for sample in metric["samples"]:
        labels = sample["labels"]
        if kind != Kind.HISTOGRAM:
            lines.append(f"{name}{_labels(labels)} {_number(sample['value'])}")
            continue
        for bound, count in [*sample["buckets"].items(), ("+Inf", sample["count"])]:
            lines.append(f"{name}_bucket{_labels(labels | {'le': bound})} {count}")
        lines.append(f"{name}_sum{_labels(labels)} {_number(sample['sum'])}")
        lines.append(f"{name}_count{_labels(labels)} {sample['count']}")
    return lines


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
