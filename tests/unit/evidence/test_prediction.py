"""Predictions in a manifest: read as they were written, and refused with the place in it."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.prediction import (
    MAX_ALTERNATIVES,
    MAX_EVENTS,
    Part,
    Prediction,
    predicted,
    read_prediction,
)
from tandem.evidence.strict_json import Place

PREDICTION = Prediction(
    secure_boot=True,
    events=(
        predicted(0, Part.FIRMWARE, "volume", b"one", b"two"),
        predicted(4, Part.LOADER, "boot loader \u2026\n", b"loader"),
    ),
    unpredicted={9: "an unknown kernel"},
)
EVENT = PREDICTION.document()["events"][0]  # type: ignore[index]


def read(document: object) -> Prediction:
    return read_prediction(
        Place(value=document, path="$", what="manifest", code="TDM-MANIFEST-BAD")
    )


def changed(**changes: object) -> dict[str, Any]:
    return {**PREDICTION.document(), **changes}


def with_event(**changes: object) -> dict[str, Any]:
    return changed(events=[{**EVENT, **changes}])


def test_a_prediction_reads_back() -> None:
    # Given a prediction
    # When it is written into a manifest and read
    # Then it is the same, and its words are printable
    assert read(PREDICTION.document()) == PREDICTION
    assert all(event.what.isprintable() for event in PREDICTION.events)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "$"),
        (changed(secure_boot=1), "$.secure_boot"),
        (changed(unpredicted={"10": "IMA's"}), "$.unpredicted"),
        (changed(unpredicted={"4": "a\nb"}), "$.unpredicted.4"),
        (changed(events=[EVENT] * (MAX_EVENTS + 1)), "$.events"),
        (with_event(register=10), "$.events.0.register"),
        (with_event(register=17), "$.events.0.register"),
        (with_event(part="nothing"), "$.events.0.part"),
        (with_event(what="x" * 301), "$.events.0.what"),
        (with_event(sha256=[]), "$.events.0"),
        (with_event(sha256=["ab" * 31] * 2), "$.events.0.sha256.0"),
        (with_event(sha384=["ab" * 48]), "$.events.0"),
        (with_event(sha256=["ab" * 32] * (MAX_ALTERNATIVES + 1)), "$.events.0.sha256"),
        (with_event(more=1), "$.events.0"),
    ],
)
def test_a_bad_prediction_is_refused_with_its_place(document: object, place: str) -> None:
    # Given a prediction that is wrong in one place
    # When it is read
    with pytest.raises(UntrustedInput) as refusal:
        read(document)

    # Then the place is named
    assert f"{place}: " in refusal.value.problem


def test_many_alternatives_cost_a_bounded_time() -> None:
    # Given a register whose every event may be of many things
    event = predicted(0, Part.FIRMWARE, "x", *(bytes([each]) for each in range(MAX_ALTERNATIVES)))
    prediction = Prediction(secure_boot=False, events=(event,) * 64, unpredicted={})

    # When its values are computed
    # Then there is an end to them
    assert len(prediction.values(0)) == 4096
