"""The commands of the documentation do what it says: each page is typed into one shell, in order.

A fenced block marked `console` is typed: lines after `$ `, and after `> ` what continues them.
Every command must succeed.  Each further line of a block is output that must appear, in order; `…`
in it stands for anything.  Blocks with another mark are for reading only.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK: Final = "\x1e"  # record separator: no command prints it
FROM_CLONE: Final = (".cache", ".venv")  # what `make` left there, and the pages use
HOST_DOWN: Final = "trap 'tandem host down >/dev/null 2>&1' EXIT"


@dataclass(kw_only=True)
class Command:
    """One command as typed, and the output lines that the page shows."""

    text: str
    shown: list[str] = field(default_factory=list)


def commands_of(page: str) -> list[Command]:
    """Read the commands of every console block of a page."""
    commands: list[Command] = []
    for block in BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append(Command(text=line[2:]))
            elif line.startswith("> ") or line == ">":
                commands[-1].text += "\n" + line[2:]
            elif line.strip():
                commands[-1].shown.append(line)
    return commands


def script_of(commands: list[Command]) -> str:
    """Write a script that marks each command's end with its status, and stops at a failure."""
    lines = [HOST_DOWN]
    for command in commands:
        lines += [command.text, f"status=$?; printf '{MARK}%d\\n' $status"]
        lines += ["[ $status -eq 0 ] || exit 0"]
    return "\n".join(lines) + "\n"


def results_of(output: str) -> Iterator[tuple[str, int]]:
    """Part the script's output into each command's own, with its status."""
    *parts, _ = re.split(rf"{MARK}(\d+)\n", output)
    return ((said, int(status)) for said, status in zip(parts[::2], parts[1::2], strict=True))


def missing_lines(shown: list[str], said: str) -> list[str]:
    """Give the lines of `shown` that `said` does not have, in their order."""
    lines = iter(said.splitlines())
    patterns = [".*".join(map(re.escape, line.strip().split("…"))) for line in shown]
    return [
        line
        for line, pattern in zip(shown, patterns, strict=True)
        if not any(re.fullmatch(pattern, each.strip()) for each in lines)
    ]


PAGES: Final = sorted(
    page
    for page in [
        ROOT / "README.md",
        *ROOT.glob("docs/tutorial/*.md"),
        *ROOT.glob("docs/how-to/*.md"),
    ]
    if commands_of(page.read_text())
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    # Given a folder that looks like a clone in which `make` ran, and nothing started
    for name in FROM_CLONE:
        (tmp_path / name).symlink_to(ROOT / name)
    commands = commands_of(page.read_text())
    environment = os.environ | {
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "TANDEM_HOST": str(tmp_path / "host"),
    }

    # When its commands are typed
    printed = tmp_path / "printed"
    with printed.open("w") as output:  # no pipe: what a page starts may outlive its shell
        subprocess.run(
            ["bash", "-c", script_of(commands)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )

    # Then each succeeds and prints what the page shows
    results = list(results_of(printed.read_text()))
    for command, (said, status) in zip(commands, results, strict=False):
        assert status == 0, f"$ {command.text}\n{said}"
        absent = missing_lines(command.shown, said)
        assert not absent, f"$ {command.text}\n{said}\nlacks: {absent}"
    assert len(results) == len(commands), printed.read_text()[-2000:]


def test_a_page_is_read_as_a_person_reads_it() -> None:
    # Given a page with a command of two lines, its output, and a block for reading only
    page = "```console\n$ cat <<END\n> a\n> END\na\n$ false\n```\n```text\n$ rm\n```\n"

    # When its commands are read
    commands = commands_of(page)

    # Then the continuation belongs to its command, and the second block is left alone
    assert [each.text for each in commands] == ["cat <<END\na\nEND", "false"]
    assert [each.shown for each in commands] == [["a"], []]


def test_shown_output_must_appear_in_its_order() -> None:
    # Given what a command said
    said = "one 1\ntwo 2\nthree 3\n"

    # When it is compared with what a page shows
    # Then an ellipsis stands for anything, and a line out of order is missed
    assert missing_lines(["one …", "three 3"], said) == []
    assert missing_lines(["three 3", "one …"], said) == ["one …"]
