"""`tandem attacks`, on a small checkout of attacks that end in every way."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tandem.cli.attacks import run
from tandem.errors import UsageError

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the attacks need root")
HEAD = '"""{row}: an attack <b>.\n\nAttacker: A.\nControl: C.\nShows: S.\n"""\n'
PASSES = "def test_{name}() -> None:\n    pass\n"
FAILS = "def test_{name}() -> None:\n    assert 1 == 2, '<script>'\n"
LEAVES = """
import pytest
@pytest.fixture
def thing():
    yield
    raise OSError
def test_{name}(thing) -> None: ...
"""
DIES = """
import os, pytest
@pytest.mark.parametrize("n", [1, 2])
def test_{name}(n) -> None:
    if n == 2:
        os._exit(9)
"""
SKIPS = "import pytest\ndef test_{name}() -> None:\n    pytest.skip('no such device')\n"
HOLDS = PASSES.format(name="control_it_works") + PASSES.format(name="it_is_refused")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a checkout without attacks."""
    attacks = tmp_path / "source" / "tests" / "attacks"
    attacks.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "attacks" / "outcomes.py", attacks)
    image = tmp_path / "source" / ".cache" / "images" / "current"
    image.mkdir(parents=True)
    (image / "vmlinuz").touch()
    return tmp_path / "source"


def add(source: Path, row: str, *tests: str) -> None:
    path = source / "tests" / "attacks" / f"test_{row}_x.py"
    path.write_text(HEAD.format(row=row) + "".join(tests))


def command(source: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tandem", "attacks", "--source", str(source), *words]


def attacks(source: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, *words), capture_output=True, text=True, check=False, timeout=120
    )


def test_all_as_claimed_is_status_0_and_a_row_for_each(source: Path) -> None:
    # Given two attacks as they should be, one of them with a test of parameters
    add(source, "5", HOLDS)
    more = "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_more(n) -> None: ...\n"
    add(source, "T1", HOLDS, more)

    # When they are run
    done = attacks(source)

    # Then both hold, the thread's row first
    rows = [line.split()[:3] for line in done.stdout.splitlines()[1:3]]
    assert rows == [["T1", "succeeds", "holds"], ["5", "succeeds", "holds"]]
    assert "2 of 2 attacks held" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("tests", "control", "tandem", "status"),
    [
        ((FAILS.format(name="control_x"), PASSES.format(name="y")), "otherwise", "as claimed", 10),
        ((PASSES.format(name="control_x"), FAILS.format(name="y")), "as claimed", "otherwise", 11),
        ((SKIPS.format(name="control_x"), PASSES.format(name="y")), "not run", "as claimed", 10),
        ((PASSES.format(name="control_x"), LEAVES.format(name="y")), "as claimed", "not run", 10),
        (
            ("import nothing_such\n", PASSES.format(name="control_x"), PASSES.format(name="y")),
            *("not run", "not run", 10),
        ),
    ],
)
def test_whichever_half_is_not_as_claimed_is_told(
    source: Path, tests: tuple[str, ...], control: str, tandem: str, status: int
) -> None:
    # Given an attack one of whose halves is not as it should be, beside one that is
    add(source, "5", *tests)
    add(source, "6", HOLDS)

    # When they are run for a program
    done = attacks(source, "--json")

    # Then it says which half, with what the test said, and the other attack is not touched by it
    record = json.loads(done.stdout)
    first, second = record["attacks"]
    assert (first["control_succeeds"], first["tandem"]) == (control, tandem)
    assert second["tandem"] == "as claimed"
    assert record["as_claimed"] == 1
    assert any("said" in each for each in first["tests"])
    assert done.returncode == status


def test_a_pytest_that_dies_leaves_the_rest_not_run(source: Path) -> None:
    # Given an attack that kills pytest in the last of its tests, the others of that name done
    add(source, "5", PASSES.format(name="control_x"), DIES.format(name="y"))

    # When it is run
    done = attacks(source, "--json")

    # Then what was not heard of counts as not run, by its name
    [attack] = json.loads(done.stdout)["attacks"]
    assert (attack["control_succeeds"], attack["tandem"]) == ("as claimed", "not run")
    assert {"test": "test_y[2]", "outcome": "not run", "seconds": 0.0} in attack["tests"]
    assert done.returncode == 10


def test_one_row_is_run_alone(source: Path) -> None:
    # Given two attacks
    add(source, "5", HOLDS)
    add(source, "6", HOLDS)

    # When one is named
    done = attacks(source, "6", "--json")

    # Then it alone runs
    assert [each["rows"] for each in json.loads(done.stdout)["attacks"]] == [["6"]]


class Page(HTMLParser):
    """What a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_report_stands_alone_and_is_not_written_by_a_test(source: Path, tmp_path: Path) -> None:
    # Given an attack whose test fails with markup
    add(source, "5", PASSES.format(name="control_x"), FAILS.format(name="y"))
    report = tmp_path / "attacks.html"

    # When a report is asked for
    done = attacks(source, "--report", str(report))
    page = Page()
    page.feed(report.read_text())

    # Then it loads nothing, runs nothing, shows the failure as text, and says so at the top
    assert done.returncode == 11
    assert "script" not in page.tags
    assert "b" in page.tags  # our own, of the row
    assert all(each.startswith("#row-") for each in page.references)
    assert "&lt;script&gt;" in report.read_text()
    assert "an attack &lt;b&gt;" in report.read_text()
    assert re.search(r'class="badge contraindicated">Not all hold<', report.read_text())


def test_without_a_checkout_it_says_what_it_needs(tmp_path: Path) -> None:
    # Given a directory without Tandem's source
    # When the attacks are to be run from it
    done = attacks(tmp_path, "--json")

    # Then the refusal says that they are part of the source, and how to come by it
    record = json.loads(done.stderr)
    assert record["code"] == "TDM-ATTACKS-NO-SOURCE"
    assert "make setup image" in record["hint"]
    assert done.returncode == 3


@pytest.mark.parametrize("report", ["", ".", "/nowhere/attacks.html", "-"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(
    source: Path, report: str
) -> None:
    # Given an attack, and a place where no report can be
    add(source, "5", HOLDS)

    # When it is named
    args = argparse.Namespace(report=report, json=True, source=source, rows=[], list=False)
    with pytest.raises(UsageError) as raised:
        run(args)

    # Then it is refused
    assert raised.value.code == "TDM-ATTACKS-REPORT"


def test_what_the_host_lacks_is_named_at_once(source: Path) -> None:
    # Given a checkout whose guest image nobody made, on a host without swtpm and QEMU
    add(source, "5", HOLDS)
    shutil.rmtree(source / ".cache")

    # When the attacks are to be run
    done = subprocess.run(
        command(source, "--json"), env={**os.environ, "PATH": "/nonexistent"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    # Then everything is named in one go
    record = json.loads(done.stderr)
    assert record["code"] == "TDM-ATTACKS-NEEDS"
    for each in ("swtpm", "qemu-system-x86_64", "the guest image"):
        assert each in record["problem"]


def test_an_interrupt_ends_the_tests_in_order(source: Path, tmp_path: Path) -> None:
    # Given an attack whose fixture has something to take back
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    slow = f"""
import pathlib, time, pytest
@pytest.fixture
def thing():
    pathlib.Path({str(begun)!r}).touch()
    yield
    pathlib.Path({str(ended)!r}).touch()
def test_control_x(thing) -> None:
    time.sleep(60)
"""
    add(source, "5", slow, PASSES.format(name="y"))
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests were put aside
    running = subprocess.Popen(command(source), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 30
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)

    # When the visitor interrupts
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]

    # Then it is taken back before the command ends
    assert running.returncode == 130
    assert b"TDM-CLI-INTERRUPTED" in said
    assert ended.exists()
