"""The journal of the host's own vTPM: which launch was the first of a boot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.builder.own_launch import ENDED, FAILED, FORMAT, RUNNING, OwnJournal, OwnLaunch

LAUNCH = OwnLaunch(
    format=FORMAT,
    boot="this boot",
    first_of_boot=True,
    state=RUNNING,
    pair_id="00" * 16,
    launch_number=3,
    launch_log="",
    device=1,
    vtpm_pid=7,
    vtpm_start_time=8,
    started_at=9,
)


@pytest.mark.parametrize(
    ("state", "first_of_boot", "boot", "expected"),
    [
        (ENDED, True, "this boot", False),  # it ran: PCR 0 to 16 were somebody's
        (RUNNING, True, "this boot", False),  # its builder was killed
        (FAILED, True, "this boot", True),  # nobody ever had it
        (FAILED, False, "this boot", False),  # but another one before it
        (ENDED, True, "next boot", True),
        (ENDED, False, "next boot", True),
    ],
)
def test_a_launch_is_the_first_of_its_boot_unless_one_ran_in_it(
    state: str, first_of_boot: bool, boot: str, expected: bool
) -> None:
    # Given the newest launch
    newest = replace(LAUNCH, state=state, first_of_boot=first_of_boot)
    # When another one follows
    # Then it is the first of its boot, or is not
    assert newest.leaves_first(boot) is expected


def test_a_launch_is_read_back_as_it_was_stored(tmp_path: Path) -> None:
    # Given a journal
    journal = OwnJournal(tmp_path / "host-vtpm.json")
    # When a launch is stored in it
    journal.store(LAUNCH)
    # Then it is the newest, for the next builder too
    assert OwnJournal(tmp_path / "host-vtpm.json").newest() == LAUNCH


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"format": "x"}', b"\xff"])
def test_a_journal_that_cannot_be_read_knows_no_launch(
    tmp_path: Path, content: bytes | None
) -> None:
    # Given no journal, or what a power loss left of one
    path = tmp_path / "host-vtpm.json"
    if content is not None:
        path.write_bytes(content)
    # When it is asked for the newest launch
    # Then there is none
    assert OwnJournal(path).newest() is None
