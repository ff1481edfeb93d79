"""A backup's file: read as it was written, or refused; and what a vTPM's state is against it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence import canonical, record_fields
from tandem.manager.backup import (
    FORMAT,
    FRAME,
    BackupReader,
    BackupWriter,
    Header,
    backup_purpose,
)
from tandem.manager.identity import derive
from tandem.manager.restoring import Slot, Standing, standing_of
from tandem.manager.vtpms import new_vtpm
from tandem.values import Secret
from tests.unit.manager.software_host import SIGNERS
from tests.unit.manager.test_identity import IDENTITY, MASTER

SALT = b"s" * 32
HEADER = Header(
    format=FORMAT,
    salt=SALT,
    created=1,
    identity=canonical.encode(record_fields.to_map(IDENTITY)),
)


def written(members: Sequence[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    writer = BackupWriter(file, HEADER, derive(MASTER, backup_purpose(SALT)))
    for name, content in members:
        writer.add(name, content)
    writer.finish()
    return file.getvalue()


def members_of(data: bytes, master: Secret = MASTER) -> list[tuple[str, bytes]]:
    return list(BackupReader(io.BytesIO(data)).members(master))


@pytest.mark.parametrize(
    "sizes", [(), (0,), (0, 0), (1, FRAME - 20, 3), (FRAME, FRAME + 1), (3 * FRAME + 7,)]
)
def test_a_backup_is_read_as_it_was_written(sizes: tuple[int, ...]) -> None:
    # Given members of any size
    members = [(f"vtpm/web/{number}", os.urandom(size)) for number, size in enumerate(sizes)]
    # When they are written and read
    # Then they come out, and the header is readable without a key
    data = written(members)
    assert members_of(data) == members
    assert BackupReader(io.BytesIO(data)).identity == IDENTITY


SMALL = written([("store", b"content"), ("vtpm/web/0", b"state")])


@pytest.mark.parametrize("cut", range(0, len(SMALL), 37))
def test_a_backup_that_was_cut_is_refused(cut: int) -> None:
    # Given a backup without its end
    # When it is read
    # Then it is refused by name
    with pytest.raises(UntrustedInput):
        members_of(SMALL[:cut])


@pytest.mark.parametrize("at", range(0, len(SMALL), 11))
def test_a_backup_that_was_changed_is_refused(at: int) -> None:
    # Given a backup with one bit changed, wherever it is
    data = bytearray(SMALL)
    data[at] ^= 4
    # When it is read
    # Then it is refused
    with pytest.raises(UntrustedInput):
        members_of(bytes(data))


def test_frames_have_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a backup of three frames
    data = written([("store", bytes(2 * FRAME + 10))])
    head = len(written([])) - 4 - 16
    frame = 4 + FRAME + 16
    first, second, rest = (
        data[head : head + frame],
        data[head + frame : head + 2 * frame],
        data[head + 2 * frame :],
    )
    # When frames change places, are left out, or are followed by more
    for frames in (second + first + rest, second + rest, first + rest, data[head:] + rest):
        # Then it is refused
        with pytest.raises(UntrustedInput):
            members_of(data[:head] + frames)


def test_another_key_opens_nothing() -> None:
    # Given a backup
    # When it is read with another master key
    # Then it is refused
    with pytest.raises(UntrustedInput):
        members_of(SMALL, Secret(b"K" * 32))


RECORD = replace(
    new_vtpm(guest="web", group="default", signers=SIGNERS), state_version=5, state_digest=b"5" * 32
)


@pytest.mark.parametrize(
    ("slots", "standing"),
    [
        ([(5, b"5"), (4, b"4")], Standing.CURRENT),
        ([(6, b"6"), (5, b"5")], Standing.CURRENT),
        ([(5, b"other"), (4, b"4")], Standing.DAMAGED),
        ([(4, b"4"), (3, b"3")], Standing.OLDER),
        ([(7, b"7"), (6, b"6")], Standing.NEWER),
        ([], Standing.MISSING),
        ([(None, b"noise"), (4, b"4")], Standing.DAMAGED),
    ],
)
def test_a_state_is_measured_at_the_backup(
    slots: list[tuple[int | None, bytes]], standing: Standing
) -> None:
    # Given slots on disk, and a backup that names version 5
    found = [Slot(version=version, digest=digest * 32) for version, digest in slots]
    # When they are compared
    # Then the standing says what they are
    assert standing_of(RECORD, found) is standing


def test_a_vtpm_without_state_needs_none() -> None:
    # Given a vTPM that had no state yet
    record = replace(RECORD, state_version=0, state_digest=b"")
    # When nothing, and something later, is on disk
    # Then that is not missing, and the later one is newer
    assert standing_of(record, []) is Standing.NONE
    assert standing_of(record, [Slot(version=1, digest=b"1" * 32)]) is Standing.NEWER
