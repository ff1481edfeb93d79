"""A state slot opens only as what the Manager knows to be the newest, whole and in its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.errors import HostError, Refused
from tandem.values import Secret
from tandem.vtpm.state import SLOT_NAMES, StateSlots, VtpmState, open_slots

KEY, VTPM_ID = Secret(b"k" * 32), b"v" * 16


def state(number: int) -> VtpmState:
    return VtpmState(engine=b"engine %d" % number, ek=b"ek", ak=b"ak")


class Disk:
    """Slots in a directory, opened anew as each launch does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._directory = os.open(path, os.O_RDONLY)
        self._open: list[int] = []

    def slots(self, vtpm_id: bytes = VTPM_ID) -> StateSlots:
        return StateSlots(self.pair(), KEY, vtpm_id)

    def pair(self) -> tuple[int, int]:
        pair = open_slots(self._directory, os.getuid())
        self._open += pair
        return pair

    def close(self) -> None:
        for descriptor in (*self._open, self._directory):
            os.close(descriptor)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


def save(slots: StateSlots, number: int) -> bytes:
    digest = slots.write(state(number))
    slots.committed()
    return digest


def test_the_newest_state_is_read_back(disk: Disk) -> None:
    # Given three versions, written one after the other
    slots = disk.slots()
    digests = [save(slots, number) for number in (1, 2, 3)]

    # When the newest is opened in another launch
    # Then it is what was written last
    assert disk.slots().read_newest(3, digests[-1]) == state(3)


def test_a_version_that_the_manager_never_recorded_leaves_the_recorded_one(disk: Disk) -> None:
    # Given version 2 recorded, and version 3 written when the power failed
    slots = disk.slots()
    digests = [save(slots, number) for number in (1, 2)]
    slots.write(state(3))

    # When the next launch opens version 2 and writes again, twice without a record
    again = disk.slots()
    assert again.read_newest(2, digests[-1]) == state(2)
    again.write(state(4))
    again.write(state(5))

    # Then version 2 is still there
    assert disk.slots().read_newest(2, digests[-1]) == state(2)


def test_an_older_copy_is_refused(disk: Disk) -> None:
    # Given a copy of the slots from version 2, put back when version 4 is due
    slots = disk.slots()
    for number in (1, 2):
        save(slots, number)
    copy = {name: (disk.path / name).read_bytes() for name in SLOT_NAMES}
    digests = [save(slots, number) for number in (3, 4)]
    for name, content in copy.items():
        (disk.path / name).write_bytes(content)

    # When it is opened
    with pytest.raises(Refused) as refusal:
        disk.slots().read_newest(4, digests[-1])

    # Then it is refused as older
    assert refusal.value.code == "TDM-STATE-OLDER"


def test_a_missing_state_is_refused(disk: Disk) -> None:
    # Given slots that were never written, or deleted
    # When version 3 is due
    with pytest.raises(Refused) as refusal:
        disk.slots().read_newest(3, b"d" * 32)

    # Then it is missing, and nothing is made anew
    assert refusal.value.code == "TDM-STATE-MISSING"


@pytest.mark.parametrize("damage", [b"", b"TDMSTAT1", b"garbage" * 9])
def test_a_damaged_state_is_refused(disk: Disk, damage: bytes) -> None:
    # Given version 1, overwritten in its slot, beside an empty other one
    slots = disk.slots()
    digest = save(slots, 1)
    whole = (disk.path / SLOT_NAMES[0]).read_bytes()
    (disk.path / SLOT_NAMES[0]).write_bytes(damage or whole[:-1])

    # When it is opened
    with pytest.raises(Refused) as refusal:
        disk.slots().read_newest(1, digest)

    # Then it is refused as damaged
    assert refusal.value.code == "TDM-STATE-DAMAGED"


def test_another_vtpm_s_state_is_refused_even_where_its_digest_is_named(disk: Disk) -> None:
    # Given a state of one vTPM
    digest = save(disk.slots(), 1)

    # When another vTPM with the same key opens it
    with pytest.raises(Refused) as refusal:
        disk.slots(b"w" * 16).read_newest(1, digest)

    # Then the slot is bound to the first
    assert refusal.value.code == "TDM-STATE-DAMAGED"


def test_a_full_disk_is_an_error_of_the_host() -> None:
    # Given slots on a disk without room
    full = os.open("/dev/full", os.O_RDWR)
    slots = StateSlots((full, full), KEY, VTPM_ID)

    # When a state is written
    with pytest.raises(HostError) as error:
        slots.write(state(1))
    os.close(full)

    # Then the error says so, and the version did not move
    assert error.value.code == "TDM-STATE-NOT-WRITTEN"
    assert slots.version == 0


def test_a_symbolic_link_in_a_slot_s_place_is_refused(tmp_path: Path) -> None:
    # Given a link where a slot should be
    (tmp_path / SLOT_NAMES[0]).symlink_to("/etc/passwd")
    directory = os.open(tmp_path, os.O_RDONLY)

    # When the slots are opened
    with pytest.raises(HostError) as error:
        open_slots(directory, os.getuid())
    os.close(directory)

    # Then it is not followed
    assert error.value.code == "TDM-STATE-UNREADABLE"


def test_nothing_secret_is_readable_in_a_slot(disk: Disk) -> None:
    # Given a state written
    save(disk.slots(), 7)

    # When the file is searched
    content = (disk.path / SLOT_NAMES[0]).read_bytes()

    # Then the engine's bytes are not there
    assert b"engine" not in content
    assert oct((disk.path / SLOT_NAMES[0]).stat().st_mode & 0o777) == "0o600"


def test_a_launch_reads_under_the_former_key_and_writes_under_its_own(disk: Disk) -> None:
    # Given a state that another launch wrote
    former, own = Secret(b"f" * 32), Secret(b"o" * 32)
    written = save(StateSlots(disk.pair(), former, VTPM_ID), 1)
    # When the next launch reads it and writes
    slots = StateSlots(disk.pair(), own, VTPM_ID, former=former)
    read = slots.read_newest(1, written)
    rewritten = save(slots, 2)
    # Then the former key opens nothing newer
    assert read == state(1)
    assert StateSlots(disk.pair(), own, VTPM_ID).read_newest(2, rewritten) == state(2)
    with pytest.raises(Refused) as refused:
        StateSlots(disk.pair(), former, VTPM_ID).read_newest(2, rewritten)
    assert refused.value.code == "TDM-STATE-DAMAGED"
