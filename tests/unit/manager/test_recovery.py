"""The recovery key as people handle it, and what it wraps."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import Refused, UsageError
from tandem.manager.recovery import new_recovery_key, read, shown, unwrap, wrap
from tandem.values import Secret
from tests.unit.manager.test_identity import IDENTITY, MASTER


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_read_as_it_was_shown(key: bytes) -> None:
    # Given any key, shown
    text = shown(Secret(key))
    # When it is typed as people do
    sloppy = [text, text.lower(), text.replace("-", ""), text.replace("-", " "), f"  {text}\n"]
    misread = text.replace("O", "0").replace("I", "1").replace("B", "8")
    # Then it is the same key
    for typed in (*sloppy, misread):
        assert read(typed).reveal() == key


@given(st.binary(min_size=32, max_size=32), st.integers(0, 55), st.integers(1, 31))
def test_a_mistyped_character_is_noticed(key: bytes, at: int, by: int) -> None:
    # Given a key of which one character is another
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    text = list(shown(Secret(key)).replace("-", ""))
    text[at] = digits[(digits.index(text[at]) + by) % len(digits)]
    # When it is read
    # Then that is noticed, and nothing of it is repeated
    with pytest.raises(UsageError) as raised:
        read("".join(text))
    assert raised.value.code == "TDM-RECOVERY-KEY-MISTYPED"
    assert "".join(text) not in str(raised.value)


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    # Given any text
    # When it is read
    # Then a key or a refusal comes out
    with suppress(UsageError):
        assert len(read(text).reveal()) == 32


def test_a_key_opens_its_own_generation_alone() -> None:
    # Given a master key, wrapped under a recovery key for a generation
    key = new_recovery_key()
    identity = replace(IDENTITY, recovery=wrap(MASTER, key, IDENTITY.generation))
    assert unwrap(identity, key).reveal() == MASTER.reveal()
    # When another key, another generation, or something else is tried
    others = [
        (identity, new_recovery_key()),
        (replace(identity, generation=4), key),
        (replace(identity, recovery=b""), key),
        (replace(identity, recovery=identity.recovery[:-1]), key),
    ]
    # Then nothing opens
    for changed, tried in others:
        with pytest.raises(Refused) as raised:
            unwrap(changed, tried)
        assert raised.value.code == "TDM-RECOVERY-KEY-WRONG"


def test_wrapping_twice_gives_nothing_to_compare() -> None:
    # Given the same keys
    key = new_recovery_key()
    # When they are wrapped twice
    # Then the results differ, and hold neither
    first, second = wrap(MASTER, key, 1), wrap(MASTER, key, 1)
    assert first != second
    assert MASTER.reveal() not in first
