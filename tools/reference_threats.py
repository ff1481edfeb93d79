"""Writes the table of claims of docs/explanation/threats.md, each with the test that shows it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tandem.cli.attack_files import Attack, read_attacks

MARK: Final = "<!-- From here on generated from tests/attacks by `make docs`; do not edit. -->\n"
HEAD: Final = """
## What is claimed, and which test shows it

Each row is an attack that somebody described or made. Its test has two halves: the *control* runs
it on what people use without Tandem, and asserts that it **succeeds**; the other half asserts what
Tandem does about it, by the code of the refusal or the name of the finding. `tandem attacks` runs
them all, from a source checkout, and writes a page about it; `tandem attacks T2 5` runs two.
"""
THREAD: Final = """
### From the thread on xen-devel

"""
LITERATURE: Final = """
### From the literature

"""
COLUMNS: Final = "| row | attack | attacker | control | Tandem |\n| --- | --- | --- | --- | --- |\n"


def threats_page(path: Path, attacks: Path) -> str:
    """Give the page: what a person wrote above the mark, and the table below it."""
    written = path.read_text().partition(MARK)[0].rstrip("\n")
    found = read_attacks(attacks)
    thread = [each for each in found if each.rows[0].startswith("T")]
    rest = [each for each in found if each not in thread]
    tables = THREAD + _table(thread) + LITERATURE + _table(rest)
    return f"{written}\n\n{MARK}{HEAD}{tables}"


def _table(attacks: Iterable[Attack]) -> str:
    return COLUMNS + "".join(_row(each) for each in attacks)


def _row(attack: Attack) -> str:
    link = f"[{attack.row}](../../tests/attacks/{attack.name})"
    cells = (attack.title, attack.attacker, attack.control, attack.shows)
    return f"| {link} | {' | '.join(each.replace('|', '&#124;') for each in cells)} |\n"
