"""Entries put into a source that people edit: what they wrote stays."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tandem.cli.library_entry import put_entry, read_entries, replaced, write_entry
from tandem.cli.library_source import TEMPLATE
from tandem.errors import UntrustedInput, UsageError

ENTRY: dict[str, Any] = {
    "kind": "on-request",
    "kernel": 'a "quoted" \\ path',
    "secure_boot": True,
    "machine": {"cpus": 2, "memory_mib": 512},
    "roms": ["a", "b"],
    "disks": [
        {"id": "root", "kind": "verity", "path": "r", "root_hash": "ab"},
        {"id": "more", "kind": "data", "path": "d"},
    ],
}


def test_an_entry_reads_as_it_was_written() -> None:
    # Given an entry with every kind of value
    # When it is written
    text = write_entry("web", ENTRY)
    # Then TOML reads it again
    assert tomllib.loads(text) == {"entries": {"web": ENTRY}}


def test_a_new_entry_goes_to_the_end_and_all_else_stays() -> None:
    # Given the template, with its comments
    # When an entry is put into it
    text = replaced(TEMPLATE, "web", ENTRY)
    # Then the template's own lines are all there, before it
    assert text.startswith(TEMPLATE.rstrip("\n"))
    assert tomllib.loads(text)["entries"]["web"] == ENTRY


def test_an_entry_is_replaced_where_it_stands() -> None:
    # Given three entries, the middle one with tables of its own, and a comment before the last
    text = (
        "# first\n[entries.a]\nkernel = 'k'\n\n"
        "[entries.b]\nkernel = 'old'\n[[entries.b.disks]]\nid = 'x'\n[entries.b.machine]\n"
        "cpus = 1\n\n# about c\n[entries.c]  # here\nkernel = 'k'\n"
    )
    # When the middle one is replaced
    new = replaced(text, "b", ENTRY)
    # Then it is new, the others and every comment are as they were, in the same order
    entries = tomllib.loads(new)["entries"]
    assert entries == {"a": {"kernel": "k"}, "b": ENTRY, "c": {"kernel": "k"}}
    assert list(entries) == ["a", "b", "c"]
    assert "# first" in new
    assert "# about c\n[entries.c]  # here" in new


def test_replacing_twice_changes_nothing_more() -> None:
    # Given a source with an entry
    once = replaced(TEMPLATE, "web", ENTRY)
    # When the same is put again
    # Then the text is the same
    assert replaced(once, "web", ENTRY) == once


def test_a_source_that_is_written_in_another_way_is_left_alone(tmp_path: Path) -> None:
    # Given a source whose entries are one inline table
    source = tmp_path / "library.toml"
    text = "entries = { web = { kernel = 'k' } }\n"
    source.write_text(text)
    # When an entry is put into it
    with pytest.raises(UsageError) as refused:
        put_entry(source, "web", ENTRY)
    # Then it is refused, and the file is as it was
    assert refused.value.code == "TDM-LIBRARY-SOURCE-UNUSUAL"
    assert source.read_text() == text


def test_an_entry_that_would_change_what_stands_beside_it_is_not_put(tmp_path: Path) -> None:
    # Given an entry with a text that looks like the table of signers, were it not a text
    source = tmp_path / "library.toml"
    text = "[entries.web]\nkernel = '''\n[library]\nthreshold = 1\n# '''\n"
    source.write_text(text)
    # When it is replaced
    with pytest.raises(UsageError) as refused:
        put_entry(source, "web", ENTRY)
    # Then it is refused: the text would have become that table
    assert refused.value.code == "TDM-LIBRARY-SOURCE-UNUSUAL"
    assert source.read_text() == text


def test_a_source_that_is_none_is_refused_with_its_path(tmp_path: Path) -> None:
    # Given a file that is no TOML
    source = tmp_path / "library.toml"
    source.write_bytes(b"\xff[")
    # When its entries are read
    with pytest.raises(UntrustedInput) as refused:
        read_entries(source)
    # Then the file is named
    assert str(source) in refused.value.problem
