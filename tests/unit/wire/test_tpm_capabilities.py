"""Lists of handles are paged as a TPM pages them, and name no kind but the one asked for."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tandem.wire.tpm_capabilities import (
    capability,
    handles_answer,
    handles_of,
    properties_of,
    same_session,
    sessions_answer,
)
from tandem.wire.tpm_commands import response

HANDLES = st.sets(st.integers(0x81000000, 0x81000020) | st.integers(0x01500000, 0x01500020))


def listed(answer: bytes) -> tuple[bool, list[int]]:
    """Read moreData and the handles of an answer."""
    more, _, count = struct.unpack_from(">BII", answer, 10)
    return bool(more), list(struct.unpack_from(f">{count}I", answer, 19))


@given(HANDLES, st.integers(1, 5))
def test_pages_give_each_handle_once_in_order(found: set[int], count: int) -> None:
    # Given handles of two kinds
    first, pages, more = 0x81000000, list[int](), True

    # When those of one kind are asked for, page by page
    while more:
        more, page = listed(handles_answer(found, first, count))
        pages += page
        first = page[-1] + 1 if page else first

    # Then each comes once, and none of the other kind
    assert pages == sorted(handle for handle in found if handle >> 24 == 0x81)


@given(HANDLES)
def test_all_pages_of_a_tpm_are_read(found: set[int]) -> None:
    # Given a TPM that gives three handles at a time
    def execute(command: bytes) -> bytes:
        _, first, _ = struct.unpack_from(">III", command, 10)
        return handles_answer(found, first, 3)

    # When all of a kind are asked for
    # Then they are there
    assert handles_of(execute, 0x01) == sorted(each for each in found if each >> 24 == 0x01)


def test_a_tpm_that_fails_is_passed_on() -> None:
    # Given a TPM in failure mode
    # When it is asked for handles, or properties
    # Then its response is given back, and there are no properties
    assert handles_of(lambda _: response(0x101), 0x01) == response(0x101)
    assert properties_of(lambda _: response(0x101), 0x20E, 3) == {}


def test_properties_beyond_those_asked_for_are_left_out() -> None:
    # Given a TPM that answers with more than it was asked for
    pairs = struct.pack(">I6I", 3, 0x20E, 1, 0x20F, 2, 0x211, 3)

    # When two are asked for
    found = properties_of(lambda _: capability(6, pairs, more=True), 0x20E, 2)

    # Then those two are given
    assert found == {0x20E: 1, 0x20F: 2}


def test_sessions_of_both_kinds_share_their_numbers() -> None:
    # Given an HMAC session and two policy sessions
    sessions = [0x03000002, 0x02000001, 0x03000005]

    # When they are listed from a number on, and named as the other kind
    # Then both kinds are in one list, and a number means one session
    assert listed(sessions_answer(sessions, 0x02000000, 2)) == (True, [0x02000001, 0x03000002])
    assert listed(sessions_answer(sessions, 0x02000003, 9)) == (False, [0x03000005])
    assert same_session(0x02000005, sessions) == 0x03000005
    assert same_session(0x02000003, sessions) is None
    assert same_session(0x80000001, sessions) is None
