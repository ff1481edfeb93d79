"""Whatever the kernel's notes, the settings or the journal hold: a value, or UntrustedInput."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from tandem.builder.own_launch import parse_launch
from tandem.builder.running_host import gnu_build_id, parse_settings
from tandem.errors import UntrustedInput
from tests.unit.builder.test_running_host import note

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
SETTING = st.sampled_from(["start", "group", "kernel", "initrd", "other"])


@given(notes=st.binary(max_size=400))
def test_no_notes_are_too_odd_to_look_through(notes: bytes) -> None:
    # Given any bytes as notes
    # When the build id is looked for
    # Then what is found is a part of them
    assert gnu_build_id(notes) in notes


@given(
    before=st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=30)), max_size=4),
    build_id=st.binary(max_size=64),
    after=st.binary(max_size=40),
)
def test_a_build_id_is_found_wherever_it_stands(
    before: list[tuple[bytes, bytes]], build_id: bytes, after: bytes
) -> None:
    # Given a build id between other notes
    others = b"".join(note(name + b"\0", 1, content) for name, content in before)
    # When it is looked for
    # Then it is found
    assert gnu_build_id(others + note(b"GNU\0", 3, build_id) + after) == build_id


@given(
    keys=st.lists(SETTING, max_size=5),
    value=ANYTHING,
    text=st.text(max_size=60),
    junk=st.binary(max_size=60),
)
def test_settings_are_read_or_refused(
    keys: list[str], value: object, text: str, junk: bytes
) -> None:
    # Given any TOML-like text
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key in keys)
    # When it is read as settings
    for each in (lines.encode(), text.encode("utf-8", "surrogatepass"), junk):
        # Then it is read, or refused by name
        with contextlib.suppress(UntrustedInput):
            parse_settings(each)


@given(fields=st.dictionaries(st.text(max_size=12), ANYTHING), junk=st.binary(max_size=80))
def test_a_journal_is_read_or_refused(fields: dict[str, object], junk: bytes) -> None:
    # Given any JSON, or any bytes
    for data in (json.dumps(fields).encode(), junk):
        # When it is read as the journal of the host's vTPM
        # Then it is read, or refused by name
        with contextlib.suppress(UntrustedInput):
            parse_launch(data)
