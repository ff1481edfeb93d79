"""What a file of tests/attacks says of its attack: the recording scheme (ADR 0020).

A file's docstring declares it: `<row>: <the attack>`, or `<row> and <row>: ...`; then, each at the
beginning of a line, `Attacker:` (who, with which rights), `Control:` (what the attack succeeds on)
and `Shows:` (what Tandem does about it).  What a test's name begins with says which half it is of:
`test_control_` asserts that the attack succeeds, any other `test_` that it does not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.errors import HostError, UsageError

TESTS: Final = "test_"
CONTROL: Final = "test_control_"
PATTERN: Final = "test_*.py"
HEAD: Final = re.compile(r"(?P<rows>T?\d+(?: and T?\d+)*): (?P<title>.+)")
FIELD: Final = re.compile(r"(Attacker|Control|Shows): *(.*)")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack: `rows` of the catalogue, and the tests of each half in their order."""

    name: str  # of its file
    rows: tuple[str, ...]
    title: str
    attacker: str
    control: str
    shows: str
    controls: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def row(self) -> str:
        """What a table calls it."""
        return ", ".join(self.rows)

    @property
    def order(self) -> tuple[bool, int]:
        """Rows of the thread come first."""
        first = self.rows[0]
        return not first.startswith("T"), int(first.removeprefix("T"))


def read_attacks(directory: Path) -> tuple[Attack, ...]:
    """Read the files of a directory, in the order of their rows; raises `HostError`."""
    files = sorted(directory.glob(PATTERN))
    found = (parse_attack(each.name, each.read_text("utf-8")) for each in files)
    return tuple(sorted(found, key=lambda each: (each.order, each.name)))


def parse_attack(name: str, source: str) -> Attack:
    """Read one file's declaration; raises `HostError` that says what it lacks."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # ValueError: a zero byte
        raise _lacks(name, f"is not Python: {error}") from error
    head, fields = _declared(ast.get_docstring(module) or "")
    if not (named := HEAD.fullmatch(head)):
        raise _lacks(name, "does not begin with `<row>: <the attack>`")
    for field in ("Attacker", "Control", "Shows"):
        if not fields.get(field):
            raise _lacks(name, f"does not say `{field}:`")
    tests = [
        each.name
        for each in module.body
        if isinstance(each, ast.FunctionDef) and each.name.startswith(TESTS)
    ]
    controls = tuple(each for each in tests if each.startswith(CONTROL))
    refusals = tuple(each for each in tests if not each.startswith(CONTROL))
    if not controls or not refusals:
        raise _lacks(name, f"has no `{TESTS if controls else CONTROL}...`: it needs both halves")
    return Attack(
        name=name,
        rows=tuple(named["rows"].split(" and ")),
        title=named["title"],
        attacker=fields["Attacker"],
        control=fields["Control"],
        shows=fields["Shows"],
        controls=controls,
        refusals=refusals,
    )


def chosen(attacks: Iterable[Attack], rows: Iterable[str]) -> tuple[Attack, ...]:
    """Give the attacks of the rows, or all where none is named; raises `UsageError`."""
    attacks, wanted = tuple(attacks), [each.upper() for each in rows]
    known = {row for attack in attacks for row in attack.rows}
    if unknown := [each for each in wanted if each not in known]:
        ordered = (row for attack in attacks for row in attack.rows)
        raise UsageError(
            "TDM-ATTACKS-UNKNOWN-ROW",
            f"there is no attack {', '.join(f'{each[:20]!a}' for each in unknown)}",
            hint=f"choose among {' '.join(dict.fromkeys(ordered))}",
        )
    if not wanted:
        return attacks
    return tuple(each for each in attacks if set(each.rows) & set(wanted))


def _declared(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its head and its fields, each as one line; an empty line ends both."""
    parts: dict[str, list[str]] = {"": []}
    current: str | None = ""
    for line in docstring.splitlines():
        if begun := FIELD.match(line):
            current = begun[1]
            parts[current] = [begun[2]]
        elif not line.strip():
            current = None
        elif current is not None:
            parts[current].append(line.strip())
    joined = {name: " ".join(lines).strip() for name, lines in parts.items()}
    return joined.pop(""), joined


def _lacks(name: str, what: str) -> HostError:
    return HostError(
        "TDM-ATTACKS-FILE",
        f"tests/attacks/{name} {what}",
        hint="tandem.cli.attack_files says how an attack is declared",
    )
