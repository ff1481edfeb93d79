"""What a former generation left is taken away, however often that takes a try."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tandem.log import get_logger
from tandem.manager import leftovers
from tandem.manager.identity import Identity
from tandem.manager.leftovers import AGAIN_SECONDS, Leftovers
from tandem.manager.ptpm import Ptpm
from tandem.manager.tcti import PtpmFailed
from tandem.settings import HostPaths

NEWEST = cast(Identity, "the newest")
BUSY = PtpmFailed("TDM-PTPM-BUSY", "the pTPM is busy", hint="wait", number=0x922)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `tidy` was called for; an error in front of it is raised by the next call."""
    calls: list[Any] = []

    def tidy(_: HostPaths, __: Ptpm, identity: Identity) -> None:
        if calls and isinstance(calls[0], Exception):
            raise calls.pop(0)
        calls.append(identity)

    monkeypatch.setattr(leftovers, "tidy", tidy)
    return calls


def duty() -> Leftovers:
    return Leftovers(HostPaths(Path("/nowhere")), cast(Ptpm, None), get_logger("test"))


def test_nothing_is_due_before_there_is_a_new_generation() -> None:
    # Given a Manager that made no new master key
    # When it is asked what is due
    # Then there is nothing
    assert duty().due(1.0) is None


def test_a_former_generation_goes_at_once(taken: list[Any]) -> None:
    # Given a new generation
    kept = duty()
    kept.of(NEWEST)
    assert cast(float, kept.due(10.0)) <= 10.0
    # When the loop comes to it
    kept.run(10.0)
    # Then what is not of it was taken away, and nothing is left to do
    assert taken == [NEWEST]
    assert kept.due(10.0) is None


@pytest.mark.parametrize("error", [BUSY, OSError(28, "No space left on device")])
def test_a_failure_is_tried_again(taken: list[Any], error: Exception) -> None:
    # Given a pTPM or a disk that fails once
    taken.append(error)
    kept = duty()
    kept.of(NEWEST)
    kept.run(10.0)
    assert (taken, kept.due(10.0)) == ([], 10.0 + AGAIN_SECONDS)
    # When its time has come
    kept.run(10.0 + AGAIN_SECONDS)
    # Then it is done
    assert (taken, kept.due(20.0)) == ([NEWEST], None)
