"""What differs between two manifests: whoever countersigns goes by it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tandem.evidence.manifest import parse_manifest
from tandem.evidence.manifest_diff import differences
from tests.unit.evidence.test_manifest import MANIFEST


def changed(path: str, value: object) -> tuple[str, ...]:
    """Give the places that differ once the value at `path` is another; None takes it away."""
    document = json.loads(json.dumps(MANIFEST))  # no two places share what is in them
    *parents, last = (int(step) if step.isdigit() else step for step in path.split("."))
    at: Any = document
    for step in parents:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    before, after = (parse_manifest(json.dumps(each).encode()) for each in (MANIFEST, document))
    return tuple(each.place for each in differences(before, after))


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("signers.key_ids.0", "ab" * 16 + "00" * 16, "signers.key_ids.0"),
        ("entries.web.boot.kernel.sha256", "ab" * 16 + "00" * 16, "entries.web.boot.kernel"),
        ("entries.web.boot.kernel.sha384", "cd" * 16 + "00" * 32, "entries.web.boot.kernel.sha384"),
    ],
)
def test_a_key_or_digest_that_only_begins_like_the_other_is_shown(
    path: str, value: str, place: str
) -> None:
    # Given a manifest
    # When a key or a digest gives way to one whose first half is the same
    # Then the place is named: such a key can be made, and its owner would sign the next version
    assert changed(path, value) == (place,)


def test_a_library_that_no_longer_expires_is_shown() -> None:
    # Given a manifest with an end
    # When it has none any more, or another
    # Then the first is a difference, and the second is what every version has
    assert changed("expires", None) == ("expires",)
    assert changed("expires", "2028-01-31T12:00:00Z") == ()


def test_a_lower_threshold_is_shown() -> None:
    # Given a manifest that takes two
    # When one is enough
    # Then that is shown
    assert changed("signers.threshold", 1) == ("signers.threshold",)
