"""The generated pages say what the source says, and nothing is missing from them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from reference_commands import commands_page
from reference_errors import errors_page

SOURCE = """
_CODE: Final = "TDM-SHOP-CLOSED"
HINT: Final = "come back later"

def enter(name):
    raise Refused(_CODE, f"{name} is shut since {len(name)} o'clock", hint=HINT)

def leave():
    raise _stuck("TDM-SHOP-STUCK", "the door")

def _stuck(code, what):
    return HostError(code, f"{what} is stuck", hint="push")

GONE = Ending(code="TDM-SHOP-GONE", reason="the shop moved")
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    source = tmp_path / "tandem"
    source.mkdir()
    (source / "shop.py").write_text(SOURCE)
    return source


def test_every_code_of_the_source_has_its_section(package: Path) -> None:
    # Given a module that raises by a constant, through a helper, and keeps a record
    # When the page is made
    page = errors_page(package)

    # Then each code has its family, problem, remedy and place
    closed, gone, stuck = page.split("\n## ")[1:]
    assert closed.startswith("TDM-SHOP-CLOSED\n\nRefused (exit status 5).")
    assert "- {name} is shut since … o'clock\n" in closed
    assert "- What to do: come back later.\n" in closed
    assert "`tandem.shop`" in closed
    assert gone.startswith("TDM-SHOP-GONE\n\nEnding.\n\n- the shop moved\n")
    assert stuck.startswith("TDM-SHOP-STUCK\n\nHostError (exit status 3).\n\n- the door\n")
    assert "- What to do: push.\n" in stuck


def test_every_code_of_tandem_is_on_its_page() -> None:
    # Given the whole source
    # When the page is made
    page = errors_page(Path(__file__).parents[3] / "src" / "tandem")

    # Then codes raised in each way of the source are there
    for code in ("TDM-NAME-NOT-A-LABEL", "TDM-CBOR-NOT-CANONICAL", "TDM-ATTESTER-NO-MAILBOX"):
        assert f"\n## {code}\n" in page


def test_a_command_is_shown_with_its_arguments() -> None:
    # Given a parser with a group, a command in it, and one that its help keeps out
    parser = argparse.ArgumentParser(prog="shop")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")
    door = groups.add_parser("door", help="open and close").add_subparsers(required=True)
    opening = door.add_parser("open", help="open it")
    opening.add_argument("name")
    opening.add_argument("--wide", action="store_true", help="all the way | fast")
    opening.add_argument("--hours", metavar="N", default=8, help="how long (%(default)s)")
    groups.add_parser("secret")

    # When the page is made
    page = commands_page(parser)

    # Then the command has its usage and a row for each argument
    assert "`shop door open name [--wide] [--hours N]`\n\nOpen it\n" in page
    assert "| `--wide` | all the way \\| fast |\n" in page
    assert "| `--hours N` | how long (8) |\n" in page
    assert "secret" not in page.split("## shop\n")[1].split("## shop door")[1]
