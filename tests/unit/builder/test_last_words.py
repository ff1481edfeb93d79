"""A vTPM's last words: the family, so the exit status, and what to do, follow from its code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.builder.directories import Directories
from tandem.builder.lifecycle import State
from tandem.builder.pair import Order, new_pair


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("TDM-STATE-MISSING", 5),
        ("TDM-STATE-OLDER", 5),
        ("TDM-STATE-DAMAGED", 5),
        ("TDM-STATE-UNREADABLE", 3),
        ("TDM-STATE-NOT-WRITTEN", 3),
        ("TDM-ANYTHING-ELSE", 3),
    ],
)
def test_a_rule_refuses_and_a_disk_fails(code: str, status: int) -> None:
    # Given a pair whose vTPM is about to be ready
    pair = new_pair(Order(guest="web", entry="web", manifest=Path("/m"), keys=()), 0)
    pair.state = State.OPENED
    # When the vTPM ends with a code
    pair.hear_last_words(code, "why it ended")
    # Then whoever waits gets that code, the family that it belongs to, and a hint
    error = pair.why_not_running()
    assert (error.code, error.problem, error.exit_status) == (code, "why it ended", status)
    assert error.hint


def test_a_vtpm_with_empty_slots_is_forgotten(tmp_path: Path) -> None:
    # Given a vTPM whose first launch ended before it wrote anything
    directories = Directories(tmp_path / "pairs", tmp_path / "vtpm")
    (tmp_path / "vtpm" / "web").mkdir()
    for name in ("state.0", "state.1"):
        (tmp_path / "vtpm" / "web" / name).touch()
    # When its pair is cleared away
    directories.forget_empty_vtpm("web")
    # Then nothing half-made is left
    assert not (tmp_path / "vtpm" / "web").exists()


def test_a_vtpm_with_a_state_is_kept(tmp_path: Path) -> None:
    # Given a vTPM with one slot written
    directories = Directories(tmp_path / "pairs", tmp_path / "vtpm")
    (tmp_path / "vtpm" / "web").mkdir()
    (tmp_path / "vtpm" / "web" / "state.0").write_bytes(b"state")
    (tmp_path / "vtpm" / "web" / "state.1").touch()
    # When its pair is cleared away
    directories.forget_empty_vtpm("web")
    # Then both slots are there
    assert len(list((tmp_path / "vtpm" / "web").iterdir())) == 2
