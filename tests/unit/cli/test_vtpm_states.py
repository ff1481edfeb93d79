"""The states of vTPMs on disk, read while they move and put back without following a link."""

from __future__ import annotations

import os
from pathlib import Path

from tandem.cli.vtpm_states import (
    ASIDE,
    SlotState,
    States,
    has_state,
    newest_two,
    put_back,
    read_slots,
    vtpm_names,
)
from tandem.vtpm.state import HEADER, MAGIC, SLOT_NAMES


def slot(version: int) -> bytes:
    return HEADER.pack(MAGIC, version, b"n" * 12) + b"content %d" % version


def write(directory: Path, vtpm: str, *versions: int) -> None:
    (directory / vtpm).mkdir(exist_ok=True)
    for name, version in zip(SLOT_NAMES, versions, strict=False):
        (directory / vtpm / name).write_bytes(slot(version))


def taken(states: States) -> list[tuple[str, int | None]]:
    return [(vtpm, each.version) for vtpm, each in states.take_new()]


def test_what_did_not_move_is_taken_once(tmp_path: Path) -> None:
    # Given two vTPMs
    write(tmp_path, "mail", 1)
    write(tmp_path, "web", 4, 3)
    states = States(tmp_path)
    # When their states are taken, one writes, and they are taken again
    first = taken(states)
    write(tmp_path, "web", 4, 5)
    # Then only what moved comes again
    assert first == [("mail", 1), ("web", 4), ("web", 3)]
    assert taken(states) == [("web", 4), ("web", 5)]
    assert taken(states) == []
    assert states.torn == set()


def test_a_version_that_may_have_been_missed_is_noted(tmp_path: Path) -> None:
    # Given a vTPM that was taken, and wrote more than its slots hold before it is taken again
    write(tmp_path, "web", 4, 3)
    states = States(tmp_path)
    taken(states)
    write(tmp_path, "web", 6, 7)
    # When it is taken
    taken(states)
    # Then version 5 may be the one that the store names; a further look says how it is by then
    assert states.torn == {"web"}
    write(tmp_path, "web", 8, 7)
    taken(states)
    assert states.torn == set()


def test_links_and_odd_names_are_left_alone(tmp_path: Path) -> None:
    # Given links in place of a directory and of a slot, and names that no vTPM has
    secret = tmp_path / "elsewhere"
    write(tmp_path, "elsewhere", 1)
    vtpms = tmp_path / "vtpm"
    vtpms.mkdir()
    (vtpms / "link").symlink_to(secret)
    (vtpms / "web").mkdir()
    (vtpms / "web" / "state.0").symlink_to(secret / "state.0")
    os.mkfifo(vtpms / "web" / "state.1")
    (vtpms / "Not-A-Name").mkdir()
    # When the states are read
    # Then nothing of it is followed, and nobody waits for a pipe
    assert vtpm_names(vtpms) == ["web"]
    assert read_slots(vtpms, "web") == []
    assert not has_state(vtpms, "web")
    assert vtpm_names(tmp_path / "missing") == []


def test_what_was_there_is_kept_beside_what_is_put_back(tmp_path: Path) -> None:
    # Given a vTPM with states
    write(tmp_path, "web", 9, 8)
    # When an older one is put back, and a vTPM that has nothing gets two
    put_back(tmp_path, "web", [slot(5)])
    put_back(tmp_path, "mail", [slot(2), slot(1)])
    # Then it has that one alone, and the others are beside it
    assert [each.version for each in read_slots(tmp_path, "web")] == [5]
    assert (tmp_path / "web" / f"state.0{ASIDE}").read_bytes() == slot(9)
    assert (tmp_path / "web" / f"state.1{ASIDE}").read_bytes() == slot(8)
    assert [each.version for each in read_slots(tmp_path, "mail")] == [2, 1]
    assert (tmp_path / "web" / "state.0").stat().st_mode & 0o777 == 0o600


def test_the_newest_two_are_chosen() -> None:
    # Given states of several versions, and what is none
    slots = [SlotState(content=content) for content in (slot(3), b"noise", slot(7), slot(5))]
    # When two are wanted
    # Then they are the newest, the older first
    assert [each.version for each in newest_two(slots)] == [5, 7]
