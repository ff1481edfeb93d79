"""Counting, and Prometheus' text format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.metrics import Kind, Metric, Metrics, prometheus_text

REQUESTS = Metric(name="requests_total", kind=Kind.COUNTER, help="Requests taken.")
OPEN = Metric(name="open", kind=Kind.GAUGE, help="Open\nnow, with a \\.")
TOOK = Metric(name="took_seconds", kind=Kind.HISTOGRAM, help="Time taken.", buckets=(0.1, 1.0))


def test_counters_gauges_and_histograms_are_told_as_prometheus_reads_them() -> None:
    # Given some things that happened
    metrics = Metrics((REQUESTS, OPEN, TOOK))
    metrics.add("requests_total", kind="quote")
    metrics.add("requests_total", 2, kind='a "b"\n')
    metrics.set("open", 3)
    for seconds in (0.05, 0.1, 0.5, 7.0):
        metrics.observe("took_seconds", seconds, command="Quote")
    # When they are told
    text = prometheus_text(metrics.as_records())
    # Then each metric has its help, its type and its samples; buckets add up
    assert text == (
        "# HELP requests_total Requests taken.\n"
        "# TYPE requests_total counter\n"
        'requests_total{kind="a \\"b\\"\\n"} 2\n'
        'requests_total{kind="quote"} 1\n'
        "# HELP open Open\\nnow, with a \\\\.\n"
        "# TYPE open gauge\n"
        "open 3\n"
        "# HELP took_seconds Time taken.\n"
        "# TYPE took_seconds histogram\n"
        'took_seconds_bucket{command="Quote",le="0.1"} 2\n'
        'took_seconds_bucket{command="Quote",le="1"} 3\n'
        'took_seconds_bucket{command="Quote",le="+Inf"} 4\n'
        'took_seconds_sum{command="Quote"} 7.65\n'
        'took_seconds_count{command="Quote"} 4\n'
    )


def test_a_metric_that_nobody_declared_is_an_error_of_ours() -> None:
    # Given metrics
    metrics = Metrics((REQUESTS,))
    # When another name is counted
    # Then that is no metric
    with pytest.raises(KeyError):
        metrics.add("request_total")


def test_a_file_of_metrics_is_whole(tmp_path: Path) -> None:
    # Given a file that an earlier process wrote
    path = tmp_path / "metrics.json"
    path.write_text("half")
    metrics = Metrics((REQUESTS,))
    metrics.add("requests_total")
    # When it is written again
    metrics.write(path)
    # Then it holds everything, and nothing lies beside it
    assert json.loads(path.read_text()) == metrics.as_records()
    assert list(tmp_path.iterdir()) == [path]
