"""What a launch measures of Tandem is everything that decides what it does, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import tandem
from tandem.installation import source_digest


def test_code_and_the_gates_table_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an installation with code, a table of commands, and what Python makes of it
    monkeypatch.setattr(tandem, "__path__", [str(tmp_path)])
    digests = []

    # When each is changed
    for name in ("module.py", "table.toml", "module.pyc"):
        (tmp_path / name).write_text("something")
        digests.append(source_digest())

    # Then code and table change the digest, and the rest does not
    code, table, cache = digests
    assert code != table == cache
