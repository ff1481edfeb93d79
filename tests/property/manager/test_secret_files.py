"""What lies on disk or comes from elsewhere about a host's secrets: read, or refused by name."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import UntrustedInput
from tandem.evidence import canonical, record_fields
from tandem.manager.backup import BackupReader
from tandem.manager.identity import Identity, parse_identity
from tests.unit.manager.test_backup import SMALL, members_of
from tests.unit.manager.test_identity import IDENTITY, MASTER

CONTENT = canonical.encode(record_fields.to_map(IDENTITY))
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), 1 << 64)
    | st.binary(max_size=8)
    | st.text(max_size=8)
    | st.lists(st.integers(-1, 30), max_size=4)
)
CHANGES = st.lists(st.tuples(st.integers(0), st.binary(max_size=8)), max_size=4)


def changed(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    buffer = bytearray(data)
    for at, piece in changes:
        start = at % (len(buffer) + 1)
        buffer[start : start + len(piece)] = piece
    return bytes(buffer)


@given(CHANGES | st.binary(max_size=200).map(lambda data: [(0, data)]))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_an_identity_or_refused(changes: list[tuple[int, bytes]]) -> None:
    # Given an identity with pieces overwritten
    data = changed(CONTENT, changes)
    # When it is read
    # Then a value or a refusal comes out, and what the value offers can be asked for
    with suppress(UntrustedInput):
        identity = parse_identity(data)
        assert identity.approver.key_size == 256
        assert identity.store.endswith(".sqlite")


@given(st.dictionaries(st.sampled_from([each.name for each in fields(Identity)]), VALUES))
@settings(max_examples=100, deadline=None)
def test_any_fields_are_an_identity_or_refused(replaced: dict[str, object]) -> None:
    # Given an identity with other values in some fields
    data = canonical.encode({**record_fields.to_map(IDENTITY), **replaced})
    # When it is read
    # Then a value or a refusal comes out
    with suppress(UntrustedInput):
        assert parse_identity(data).generation > 0


@given(CHANGES | st.binary(max_size=200).map(lambda data: [(0, data)]))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_backup_or_refused(changes: list[tuple[int, bytes]]) -> None:
    # Given a backup with pieces overwritten
    data = changed(SMALL, changes)
    # When it is read to its end
    found = None
    with suppress(UntrustedInput):
        found = list(BackupReader(io.BytesIO(data)).members(MASTER))
    # Then it is what was written, or refused
    assert found is None or (data == SMALL and found == members_of(SMALL))
