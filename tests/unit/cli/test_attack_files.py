"""How a file of tests/attacks declares its attack, and what is said where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.cli.attack_files import chosen, parse_attack, read_attacks
from tandem.errors import HostError, UsageError

ATTACKS = Path(__file__).parents[2] / "attacks"
GOOD = '''"""T7 and 43: somebody
does something.

Attacker: the host,
who reads files.
Control: swtpm.
Shows: it is refused.

A note.
"""

def test_control_it_works() -> None: ...
def test_it_does_not() -> None: ...
def helper() -> None: ...
'''


def test_every_attack_of_this_repository_has_both_halves() -> None:
    # Given the files of tests/attacks
    # When they are read
    attacks = read_attacks(ATTACKS)

    # Then each declares itself, the thread's rows first, and no row is declared twice
    rows = [row for each in attacks for row in each.rows]
    assert len(attacks) == len(list(ATTACKS.glob("test_*.py")))
    assert rows[0] == "T1"
    assert len(set(rows)) == len(rows)


def test_a_declaration_is_read_across_its_lines() -> None:
    # Given a file of two rows, its fields over several lines
    # When it is read
    attack = parse_attack("test_t07_x.py", GOOD)

    # Then each field is one line, and each test is of its half
    assert attack.rows == ("T7", "43")
    assert attack.row == "T7, 43"
    assert attack.title == "somebody does something."
    assert attack.attacker == "the host, who reads files."
    assert attack.shows == "it is refused."
    assert attack.controls == ("test_control_it_works",)
    assert attack.refusals == ("test_it_does_not",)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("T7 and 43: ", "does not begin with"),
        ("Attacker: the host,", "does not say `Attacker:`"),
        ("Control: swtpm.", "does not say `Control:`"),
        ("Shows: it is refused.", "does not say `Shows:`"),
        ("def test_control_it_works() -> None: ...", "has no `test_control_...`"),
        ("def test_it_does_not() -> None: ...", "has no `test_...`"),
        ("def helper() -> None", "is not Python"),
    ],
)
def test_what_is_missing_is_named_with_the_file(without: str, said: str) -> None:
    # Given a file that lacks a part
    # When it is read
    with pytest.raises(HostError) as raised:
        parse_attack("test_43_x.py", GOOD.replace(without, ""))

    # Then the refusal names the file and the part
    assert raised.value.code == "TDM-ATTACKS-FILE"
    assert "tests/attacks/test_43_x.py" in raised.value.problem
    assert said in raised.value.problem


def test_rows_are_chosen_by_any_of_their_names() -> None:
    # Given an attack of two rows, and another one
    both = parse_attack("a", GOOD)
    other = parse_attack("b", GOOD.replace("T7 and 43", "5"))

    # When rows are chosen
    # Then either name finds it, once, and none means all
    assert chosen([both, other], ["t7", "43"]) == (both,)
    assert chosen([both, other], []) == (both, other)


def test_an_unknown_row_is_refused_with_those_that_there_are() -> None:
    # Given attacks, and a row that none has
    both = parse_attack("a", GOOD)

    # When it is chosen
    with pytest.raises(UsageError) as raised:
        chosen([both], ["T7", "x\ny"])

    # Then it is named, made safe, and what there is
    assert raised.value.code == "TDM-ATTACKS-UNKNOWN-ROW"
    assert r"'X\nY'" in raised.value.problem
    assert raised.value.hint.endswith("T7 43")
