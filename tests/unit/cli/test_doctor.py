"""`tandem doctor`: each lack is named with its remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.cli import doctor
from tandem.cli.main import main


def test_every_lack_comes_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    # Given this machine, whatever it has
    # When the doctor looks
    status = main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    # Then what lacks has a remedy, and decides the exit status
    lacking = [each for each in findings if each["standing"] == "lacks"]
    assert all(each["remedy"] for each in lacking)
    assert status == (3 if lacking else 0)


def test_a_missing_program_names_its_package() -> None:
    # Given a program that is nowhere
    # When it is looked for
    finding = doctor.program("no-such-program", "some-package", "the test")
    # Then the remedy installs it
    assert finding.standing is doctor.Standing.LACKS
    assert finding.remedy == "apt-get install some-package"


def test_room_is_looked_for_where_the_host_will_be(tmp_path: Path) -> None:
    # Given a host directory that is not there yet
    # When its room is looked at
    finding = doctor.space(tmp_path / "a" / "b")
    # Then the file system that it will be on is meant
    assert str(tmp_path) in finding.found
