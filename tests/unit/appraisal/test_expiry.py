"""A library's time, as a verifier sees it: what counts is when the pair was started."""

from __future__ import annotations

import datetime

import pytest

from tandem.appraisal.verdict import Tier
from tandem.evidence.manifest import TIME_FORMAT
from tests.unit.appraisal.forge import NOW, Forge, finding, library

STARTED = NOW - datetime.timedelta(seconds=60)  # as the forged pair record says


@pytest.mark.parametrize(
    ("later", "tier"),
    [(1, Tier.AFFIRMING), (0, Tier.CONTRAINDICATED), (-3600, Tier.CONTRAINDICATED)],
)
def test_a_pair_counts_where_it_was_started_before_its_library_expired(
    later: int, tier: Tier
) -> None:
    # Given a library that expired so many seconds after the pair's start, and has by now
    expires = STARTED + datetime.timedelta(seconds=later)
    forge = Forge(library=library(expires=f"{expires:{TIME_FORMAT}}"))
    # When its evidence is appraised
    found = finding(forge.verdict(), "manifest-is-the-records")
    # Then a start in time is as good as ever, and a later one is not
    assert found.tier is tier
