"""The journal: found again whole, or recognised as nothing to find."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.builder.journal import Journal, PairEntry, parse_entry
from tandem.builder.pair import Order, found_pair, new_pair
from tandem.errors import UntrustedInput

ORDER = Order(guest="web", entry="web", manifest=Path("/library.dsse.json"), keys=(b"PEM",))


def entry(pair_id: str = "aa" * 16) -> PairEntry:
    return replace(
        new_pair(ORDER, slot=3).entry, pair_id=pair_id, vtpm_pid=7, times={"measured": 5}
    )


def test_an_entry_is_found_again_as_it_was_stored(tmp_path: Path) -> None:
    # Given two pairs, one stored twice
    journal, first, second = Journal(tmp_path), entry(), entry("bb" * 16)
    for each in (first, second, replace(first, state="running")):
        journal.store(each)
    # When the journal is read anew
    found = dict(Journal(tmp_path).entries())
    # Then the last word on each is there
    assert found == {"aa" * 16: replace(first, state="running"), "bb" * 16: second}


def test_an_entry_of_an_earlier_boot_names_nothing_that_lives(tmp_path: Path) -> None:
    # Given an entry from before the machine started again
    journal = Journal(tmp_path)
    journal.store(replace(entry(), boot="an earlier one"))
    # When the journal is read
    # Then the pair is known, its processes are not
    assert list(journal.entries()) == [("aa" * 16, None)]


@pytest.mark.parametrize("left", [b"", b"{", b"[1]", b"{}", b'{"format": "other"}'])
def test_what_a_crash_left_is_cleared_not_believed(tmp_path: Path, left: bytes) -> None:
    # Given a file that is no whole entry
    (tmp_path / "cc.json").write_bytes(left)
    # When the journal is read
    # Then the pair is known, and that nothing is known of it
    assert list(Journal(tmp_path).entries()) == [("cc", None)]
    with pytest.raises(UntrustedInput):
        parse_entry(left)


@pytest.mark.parametrize(
    "odd",
    [
        {"state": "flying"},
        {"pair_id": "../../etc"},
        {"pair_id": ""},
        {"launch_log": "abc"},
        {"vtpm_pid": "7"},
        {"vtpm_pid": -1},
        {"hypervisor_pid": 1 << 40},
        {"timeline": [1]},
    ],
)
def test_an_entry_that_would_trip_the_next_builder_is_no_entry(
    tmp_path: Path, odd: dict[str, object]
) -> None:
    # Given a whole entry with one field that no builder writes
    fields = {**dataclasses.asdict(entry()), **odd}
    (tmp_path / "cc.json").write_text(json.dumps(fields))
    # When the journal is read
    # Then nothing of it is believed
    assert list(Journal(tmp_path).entries()) == [("cc", None)]


def test_a_file_that_cannot_be_read_is_cleared_like_one_that_says_nothing(tmp_path: Path) -> None:
    # Given a directory in an entry's place
    (tmp_path / "cc.json").mkdir()
    # When the journal is read
    # Then the pair is known, and that nothing is known of it
    assert list(Journal(tmp_path).entries()) == [("cc", None)]


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first draw of a busy machine
@given(
    changed=st.dictionaries(
        st.sampled_from([each.name for each in dataclasses.fields(PairEntry)]),
        st.none() | st.text(max_size=40) | st.integers() | st.lists(st.text(max_size=5)),
        max_size=4,
    )
)
def test_whatever_an_entry_says_it_is_read_or_refused(changed: dict[str, object]) -> None:
    # Given an entry with arbitrary fields
    data = json.dumps({**dataclasses.asdict(entry()), **changed}).encode()
    # When it is read
    try:
        found = parse_entry(data)
    except UntrustedInput:
        return
    # Then a pair can be made of it
    pair = found_pair(found)
    assert len(bytes.fromhex(found.pair_id)) == 16
    assert pair.state.value == found.state


def test_a_removed_entry_is_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    # Given a stored entry
    journal = Journal(tmp_path)
    journal.store(entry())
    # When it is removed twice
    journal.remove("aa" * 16)
    journal.remove("aa" * 16)
    # Then nothing is left
    assert list(journal.entries()) == []


def test_a_key_file_with_any_bytes_beside_its_key_is_found_again(tmp_path: Path) -> None:
    # Given a pair whose library key has a comment that is not ASCII
    key = "# Ren\u00e9e's\n-----BEGIN PUBLIC KEY-----".encode()
    stored = replace(new_pair(replace(ORDER, keys=(key,)), slot=0).entry, pair_id="dd" * 16)
    journal = Journal(tmp_path)
    journal.store(stored)
    # When another builder takes the pair up
    [(_, found)] = journal.entries()
    # Then the order has the key's own bytes
    assert found is not None
    assert found_pair(found).order.keys == (key,)
