"""`tandem vtpm destroy`: what a guest leaves behind, the next one of its name does not find."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from tandem.cli import vtpm
from tandem.errors import HostError


@pytest.fixture
def args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A host whose Manager agrees to all, with the state and variables of two guests."""
    monkeypatch.setattr(vtpm, "ManagerClient", MagicMock())
    monkeypatch.setattr(vtpm, "administer", MagicMock())
    monkeypatch.setattr(vtpm, "_ask", lambda *_: SimpleNamespace(group="red"))
    (tmp_path / "variables").mkdir()
    for guest in ("web", "mail"):
        (tmp_path / "vtpm" / guest).mkdir(parents=True)
        (tmp_path / "variables" / f"{guest}.fd").write_bytes(b"boot entries, and keys")
    return argparse.Namespace(host=tmp_path, vtpm="web", json=True)


def test_with_a_vtpm_its_guests_uefi_variables_go(args: argparse.Namespace) -> None:
    # Given two guests that keep their variables
    # When the vTPM of one is destroyed
    vtpm.run_destroy(args)
    # Then the next of its name begins with the library's, and the other has its own still
    assert [each.name for each in (args.host / "variables").iterdir()] == ["mail.fd"]
    assert [each.name for each in (args.host / "vtpm").iterdir()] == ["mail"]


def test_variables_that_cannot_be_removed_are_told(args: argparse.Namespace) -> None:
    # Given a folder where the file should be
    path = args.host / "variables" / "web.fd"
    path.unlink()
    path.mkdir()
    # When the vTPM is destroyed
    with pytest.raises(HostError) as failed:
        vtpm.run_destroy(args)
    # Then that is said: whoever has the name next would find it
    assert failed.value.code == "TDM-VARIABLES-LEFT"
