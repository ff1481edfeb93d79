"""What administrators and verifiers read is read whole or refused, whatever it is."""

from __future__ import annotations

import contextlib

from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import UntrustedInput
from tandem.evidence import oids
from tandem.evidence.certificates import MAX_COUNT, _counts, encode_counts
from tandem.evidence.revocation import RevocationList, parse_revocation_list
from tandem.wire.administration import ACTIONS, AddGroup, DestroyVtpm
from tests.unit.manager.software_host import NOW, software_authority

COUNTS = st.integers(0, MAX_COUNT)
SERIALS = st.binary(min_size=1, max_size=20).filter(lambda serial: serial[0] in range(1, 128))
LIST = software_authority().revocation_list({b"\1\2": 1_700_000_000}, 3, NOW)
ACTION = ACTIONS.encode(DestroyVtpm(group="red", vtpm="web"))


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Give a structure with some bytes changed, or cut."""
    changes = st.lists(
        st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )

    def change(at: list[tuple[int, int]]) -> bytes:
        data = bytearray(whole)
        for index, value in at:
            data[index] = value
        return bytes(data)

    return changes.map(change) | st.integers(0, len(whole)).map(lambda size: whole[:size])


@given(data=st.binary(max_size=600) | damaged(LIST))
def test_a_list_is_read_or_refused(data: bytes) -> None:
    # Given any bytes, most of them nearly a list
    # When they are read
    # Then there is a list with everything in it, or UntrustedInput
    with contextlib.suppress(UntrustedInput):
        found = parse_revocation_list(data)
        assert isinstance(found, RevocationList)
        assert found.next_due.year
        assert all(found.revoked.values())


@given(serials=st.dictionaries(SERIALS, st.integers(0, 2**32), max_size=20))
def test_a_list_says_what_was_put_into_it(serials: dict[bytes, int]) -> None:
    # Given serial numbers and times
    # When they are signed and read
    found = parse_revocation_list(software_authority().revocation_list(serials, 1, NOW))
    # Then they are there
    assert {serial: int(at.timestamp()) for serial, at in found.revoked.items()} == {
        int.from_bytes(serial): at for serial, at in serials.items()
    }


@given(reset=COUNTS, restart=COUNTS)
def test_counts_are_read_as_they_were_written(reset: int, restart: int) -> None:
    # Given two counts
    written = encode_counts(reset, restart)
    # When they are read
    # Then they are the same, and the bytes are DER
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oids.EXPECTED_COUNTS), written)
    assert _counts(extension) == (reset, restart)


@given(data=st.binary(max_size=24) | damaged(encode_counts(300, 1)))
def test_counts_have_one_encoding(data: bytes) -> None:
    # Given any bytes
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oids.EXPECTED_COUNTS), data)
    # When they are read
    # Then they are refused, or just what would be written for that
    with contextlib.suppress(UntrustedInput):
        assert encode_counts(*_counts(extension)) == data


@given(data=st.binary(max_size=200) | damaged(ACTION))
def test_an_action_is_read_or_refused(data: bytes) -> None:
    # Given any bytes
    # When they are read as an action
    # Then there is one, or UntrustedInput
    with contextlib.suppress(UntrustedInput):
        ACTIONS.decode(data)


@given(signers=st.lists(st.text(max_size=8), max_size=4), number=st.integers(0, 2**64 - 1))
def test_an_action_is_read_as_it_was_written(signers: list[str], number: int) -> None:
    # Given an action
    action = AddGroup(
        group="red",
        authority=b"key",
        signers=tuple(signers),
        vtpms_most=number,
        running_most=1,
        commits_most=1,
    )
    # When it is written and read
    # Then it is the same
    assert ACTIONS.decode(ACTIONS.encode(action)) == action
