"""Libraries under any input: sources, trust files and manifests are read or refused by name."""

from __future__ import annotations

import copy
import json
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.builder.library import parse_trust
from tandem.cli.library_entry import replaced, write_entry
from tandem.cli.library_files import LibraryFiles
from tandem.cli.library_source import TEMPLATE, manifest
from tandem.cli.library_terms import Terms, read_terms
from tandem.errors import TandemError
from tandem.evidence.manifest import parse_manifest
from tandem.evidence.manifest_diff import differences
from tandem.evidence.strict_json import Place
from tandem.images.initramfs import module_order

SCALARS = st.booleans() | st.integers() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
ENTRY_KEYS = st.sampled_from(
    [
        *("kind", "role", "boot", "kernel", "initrd", "command_line", "firmware", "roms", "disks"),
        *(
            "vtpm",
            "group",
            "machine",
            "files",
            "build_id",
            "secure_boot",
            "variables",
            "hypervisor",
        ),
    ]
)
SOURCES = st.dictionaries(
    st.text("abc-", min_size=1, max_size=6), st.dictionaries(ENTRY_KEYS, VALUES) | VALUES
)
FILE = {"path": "a", "size": 1, "sha256": "ab" * 32, "sha384": "cd" * 48}
MANIFEST: dict[str, Any] = {
    "format": "tandem-library-1",
    "name": "main",
    "version": 1,
    "signers": {"key_ids": ["ab" * 32, "cd" * 32], "threshold": 2},
    "expires": "2027-01-31T12:00:00Z",
    "entries": {"mgr": {"kind": "build-once", "role": "manager", "files": [FILE]}},
}
NAMES = st.text("abcdefgh0123", min_size=1, max_size=6)
ENTRIES = st.dictionaries(
    st.text("abc_ .é", min_size=1, max_size=6),
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(NAMES, SCALARS, min_size=1, max_size=3)
    | st.lists(st.dictionaries(NAMES, SCALARS), min_size=1, max_size=3),
    max_size=5,
)
COMMENTS = st.text("ab #[]=\"'", max_size=20)


def made(entries: object, files: LibraryFiles) -> None:
    """Make a manifest of entries and read it."""
    document = MANIFEST | manifest(place({"entries": entries}), files, 1)
    parse_manifest(json.dumps(document).encode("ascii", "backslashreplace"))


def place(value: object) -> Place:
    return Place(value=value, path="$", what="library.toml", code="TDM-LIBRARY-SOURCE-BAD")


def refusal(read: Callable[[], object]) -> str:
    """Give what a refusal says, with its code; empty where there is none."""
    try:
        read()
    except TandemError as error:
        return str(error)
    return ""


@given(data=st.binary(max_size=40) | st.integers().map(lambda n: b"threshold = %d" % n))
def test_a_trust_file_gives_a_threshold_that_can_be_met_or_is_refused(data: bytes) -> None:
    # Given any file, beside three keys
    # When it is read
    said = refusal(lambda: parse_trust(data, 3))
    # Then it is refused by name, or gives one of 1 to 3
    assert "TDM-LIBRARY-TRUST-BAD" in said or 1 <= parse_trust(data, 3) <= 3


@given(value=VALUES | st.dictionaries(st.sampled_from(["name", "expires_days", "signers"]), VALUES))
def test_terms_are_read_or_refused(value: object) -> None:
    # Given any value at [library]
    table = place({}).at(value, "library")
    # When it is read
    said = refusal(lambda: read_terms(table))
    # Then it is refused with its place, or understood
    assert "$.library" in said or isinstance(read_terms(table), Terms)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(entries=SOURCES | VALUES)
def test_a_source_gives_a_document_that_is_read_or_refused(entries: object) -> None:
    # Given any source
    with tempfile.TemporaryDirectory() as directory:
        files = LibraryFiles(directory=Path(directory), copies=False)
        # When its manifest is made and read
        said = refusal(lambda: made(entries, files))
        # Then it is refused by name where it is wrong, and nothing was written
        assert said == "" or "TDM-" in said
        assert not list(Path(directory).iterdir())


@given(
    where=st.sampled_from(
        ["name", "version", "expires", "signers", "signers.key_ids", "signers.threshold", "entries"]
    ),
    value=VALUES,
)
def test_a_manifest_with_anything_in_one_place_is_read_or_refused(
    where: str, value: object
) -> None:
    # Given a manifest with any value in one of its places
    document = copy.deepcopy(MANIFEST)
    at = document
    *steps, last = where.split(".")
    for step in steps:
        at = at[step]
    at[last] = value
    data = json.dumps(document).encode()
    # When it is read
    said = refusal(lambda: parse_manifest(data))
    # Then it is refused at that place or below, or it is whole
    if said:
        assert f"$.{where}" in said or "not JSON" in said
    else:
        found = parse_manifest(data)
        assert 1 <= found.signers.threshold <= len(found.signers.key_ids)
        assert differences(found, found) == ()


@given(name=NAMES, entry=ENTRIES, comment=COMMENTS, other=ENTRIES)
def test_an_entry_is_put_into_a_source_and_nothing_else_changes(
    name: str, entry: dict[str, Any], comment: str, other: dict[str, Any]
) -> None:
    # Given a source with another entry, a comment after it, and an older entry of that name
    text = f"{TEMPLATE}\n{write_entry('z-other', other)}# {comment}\n{write_entry(name, other)}"
    # When the entry is put into it
    new = replaced(text, name, entry)
    # Then it is as given, the others are as they were, and so is the comment
    entries = tomllib.loads(text)["entries"]
    assert tomllib.loads(new)["entries"] == {**entries, name: entry}
    assert f"# {comment}\n" in new
    # And the same once more changes nothing
    assert replaced(new, name, entry) == new


@given(text=st.text(max_size=200), wanted=st.lists(NAMES, max_size=3))
def test_any_list_of_modules_gives_an_order(text: str, wanted: list[str]) -> None:
    # Given any text as modules.dep
    # When an order is asked of it
    # Then there is one, of what it names
    assert all(path in text for path in module_order(text, tuple(wanted)))
