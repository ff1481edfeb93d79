"""TOML that people write: what JSON could not say is refused at its place."""

from __future__ import annotations

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.strict_toml import parse_toml


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[entries.web.machine]\nmemory_mib = 2020-01-01", "$.entries.web.machine.memory_mib: "),
        ("a = [1, 12:00:00]", "$.a.1: "),
        ("a = 2020-01-01T12:00:00Z", "$.a: "),
        ('["\\u001b[2J"]', "$: key '\\x1b[2J'"),
        (".".join("a" * 20) + " = 1", "$: nested deeper"),
    ],
)
def test_what_no_document_of_ours_has_is_refused_at_its_place(text: str, place: str) -> None:
    # Given TOML with a date, a time, a name that would move the cursor, or tables in tables
    # When it is read
    with pytest.raises(UntrustedInput) as refused:
        parse_toml(text.encode(), "library.toml", "TDM-LIBRARY-SOURCE-BAD", 1024)
    # Then it is refused where it stands: it could not be signed, and would end in a traceback
    assert refused.value.code == "TDM-LIBRARY-SOURCE-BAD"
    assert f"library.toml: {place}" in refused.value.problem


def test_values_and_tables_of_every_other_kind_are_read() -> None:
    # Given TOML of what JSON has, too
    text = 'a = "b"\nc = [1, 1.5, true, {d = []}]\n[e.f]\n'
    # When it is read
    root = parse_toml(text.encode(), "library.toml", "TDM-LIBRARY-SOURCE-BAD", 1024)
    # Then it is what it says
    assert root.value == {"a": "b", "c": [1, 1.5, True, {"d": []}], "e": {"f": {}}}
