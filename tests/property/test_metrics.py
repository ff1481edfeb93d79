"""What another process says that it counted: read whole, or refused by name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import UntrustedInput
from tandem.metrics import Kind, Metric, Metrics, parse_records, prometheus_text

NAMES = st.from_regex("[a-z][a-z0-9_]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
SHAPES = st.lists(
    st.fixed_dictionaries(
        {
            "name": NAMES | JSON,
            "kind": st.sampled_from([*map(str, Kind), "summary"]) | JSON,
            "help": TEXTS | JSON,
            "samples": st.lists(
                st.fixed_dictionaries(
                    {"labels": st.dictionaries(NAMES, TEXTS) | JSON, "value": JSON}
                )
                | JSON,
                max_size=3,
            ),
        }
    ),
    max_size=3,
)


@given(st.binary(max_size=300) | SHAPES.map(lambda shape: json.dumps(shape).encode()))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    # Given any bytes, or JSON of nearly the right shape
    # When they are read
    with contextlib.suppress(UntrustedInput):
        text = prometheus_text(parse_records(data, "metrics"))
        # Then each line is a comment or a sample: nothing of the input ends one early
        assert all(line.startswith("# ") or line[0].isalpha() for line in text.splitlines())
        assert text.replace("\n", "").isprintable()


@given(st.dictionaries(NAMES, TEXTS, max_size=3), st.lists(st.floats(0, 1e6), max_size=5))
def test_what_is_counted_survives_the_way_to_another_process(
    labels: dict[str, str], values: list[float]
) -> None:
    # Given metrics with any labels
    metrics = Metrics(
        (
            Metric(name="seconds", kind=Kind.HISTOGRAM, help="Time.", buckets=(0.1, 1.0)),
            Metric(name="total", kind=Kind.COUNTER, help="Count."),
        )
    )
    labels = {f"label_{name}": value for name, value in labels.items()}
    for value in values:
        metrics.observe("seconds", value, **labels)
        metrics.add("total", 1, **labels)
    # When they are written and read
    found: list[dict[str, Any]] = parse_records(json.dumps(metrics.as_records()).encode(), "m")
    # Then they say the same
    assert prometheus_text(found) == prometheus_text(metrics.as_records())
