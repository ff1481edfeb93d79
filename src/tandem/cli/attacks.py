"""`tandem attacks`: each attack of the catalogue, run on what it succeeds on and on Tandem."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tandem.appraisal.verdict import Tier
from tandem.cli.attack_files import Attack, chosen, read_attacks
from tandem.cli.attack_report import summary, write_report
from tandem.cli.attack_runs import (
    ATTACKS,
    Result,
    Run,
    Standing,
    find_source,
    python_for,
    run_attacks,
)
from tandem.cli.output import EXIT_STATUS, MAX_SHOWN, STANDARD, add_json, write_file
from tandem.errors import UsageError

EXAMPLES: Final = """\
examples:
  tandem attacks --list               which attacks are there?
  tandem attacks                      run all of them; as root, in a source checkout
  tandem attacks T2 5 --report attacks.html
                                      run two, and write a page about them
  tandem attacks --json | jq '.attacks[] | select(.tandem != "as claimed")'

An attack has two halves. Its control runs it on what people use without Tandem (plain swtpm and
QEMU as a rule) and must succeed; only then it says something that it does not succeed on Tandem.

exit status: 0 each control succeeds, and Tandem holds each time; 10 some half was not run, or a
control does not succeed; 11 Tandem does not hold
"""
CONTROL: Final = {
    Standing.AS_CLAIMED: "succeeds",
    Standing.OTHERWISE: "does not",
    Standing.NOT_RUN: "not run",
}
TANDEM: Final = {
    Standing.AS_CLAIMED: "holds",
    Standing.OTHERWISE: "DOES NOT",
    Standing.NOT_RUN: "not run",
}
COLUMNS: Final = "{:7}{:10}{:10}{:>8}  {}"
CLEAR_LINE: Final = "\r\x1b[K"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "attacks",
        help="run the attacks that Tandem must refuse, each with its control",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json(parser)
    parser.add_argument("rows", metavar="ROW", nargs="*", help="rows of the catalogue, as T2 or 5")
    parser.add_argument("--list", action="store_true", help="only list them")
    parser.add_argument(
        "--report", metavar="FILE", help="write an HTML page; `-` to standard output"
    )
    parser.add_argument("--source", metavar="DIR", type=Path, help="the source checkout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the attacks that were named; the status says whether all is as claimed."""
    _check_report(args)
    source = find_source(args.source)
    attacks = chosen(read_attacks(source / ATTACKS), args.rows)
    if args.list:
        show_list(attacks, as_json=args.json)
        return 0
    python = python_for(source)
    started = datetime.now(UTC)
    quiet = args.json or args.report == STANDARD
    progress = Progress(attacks, quiet=quiet)
    ran = run_attacks(source, python, attacks, progress.hear)
    progress.end(ran)
    if args.report:
        page = write_report(ran.results, started, datetime.now(UTC) - started)
        write_file(args.report, page.encode(), "the report")
    if args.json:
        print(json.dumps(as_record(ran.results), sort_keys=True))
    elif not quiet:
        show_failures(ran.results)
        print(summary(ran.results))
    return EXIT_STATUS[max(each.tier for each in ran.results)]


def _check_report(args: argparse.Namespace) -> None:
    """Refuse at once what would fail after all attacks have run."""
    report = args.report
    if report is None or (report == STANDARD and not args.json):
        return
    directory = Path(report).parent
    if report == STANDARD:
        problem = "the report and the JSON cannot both go to standard output"
    elif not report or Path(report).is_dir() or not os.access(directory, os.W_OK):
        problem = f"a report cannot be written to {report[:MAX_SHOWN]!a}"
    else:
        return
    raise UsageError(
        "TDM-ATTACKS-REPORT", problem, hint="name a file in a directory that is there, and yours"
    )


class Progress:
    """Rows as attacks end; on a terminal, below them, what runs now."""

    def __init__(self, attacks: tuple[Attack, ...], *, quiet: bool) -> None:
        self._waiting = {each.name: each for each in attacks}
        self._count = len(attacks)
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._now = ""
        if not quiet:
            print(COLUMNS.format("row", "control", "Tandem", "time", "attack"), flush=True)

    def hear(self, run: Run, name: str) -> None:
        """Show what a line of the run means; another file's first test ends the one before."""
        if name == self._now or name not in self._waiting:
            return
        self._finish(run)
        self._now = name
        number = self._count - len(self._waiting) + 1
        attack = self._waiting[name]
        text = f"{number}/{self._count}  {attack.row}: {attack.title}"
        self._status(text)

    def end(self, run: Run) -> None:
        """Show the last one, and those that never began."""
        self._finish(run)
        for name in list(self._waiting):
            self._now = name
            self._finish(run)

    def _finish(self, run: Run) -> None:
        attack = self._waiting.pop(self._now, None)
        if attack is None:
            return
        if self._live:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
        if not self._quiet:
            print(as_row(run.result(attack)), flush=True)

    def _status(self, text: str) -> None:
        if self._live:
            shown = text[: shutil.get_terminal_size().columns - 1]
            print(f"{CLEAR_LINE}{shown}", end="", file=sys.stderr, flush=True)
        elif self._quiet:
            print(text, file=sys.stderr, flush=True)


def as_row(result: Result) -> str:
    """Lay one attack out for a person."""
    attack = result.attack
    words = (CONTROL[result.control], TANDEM[result.tandem], f"{result.seconds:.1f} s")
    return COLUMNS.format(attack.row, *words, attack.title)


def show_failures(results: tuple[Result, ...]) -> None:
    """Say of each test that did not pass what it said last."""
    for result in results:
        for each in result.ran:
            if each.outcome != "passed":
                print(f"{result.attack.name}::{each.test} {each.outcome}: {_gist(each.said)}")


def _gist(said: str) -> str:
    """Give the line that says most of what a test said: the error, which pytest marks by an E."""
    lines = said.strip().splitlines() or [""]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    return (errors or lines[-1:])[0]


def show_list(attacks: tuple[Attack, ...], *, as_json: bool) -> None:
    """List attacks without running them."""
    if as_json:
        print(json.dumps([declared(each) for each in attacks], sort_keys=True))
        return
    for each in attacks:
        print(f"{each.row:7}{each.title}")


def declared(attack: Attack) -> dict[str, object]:
    """Give what a file declares, for JSON."""
    return {
        "rows": attack.rows,
        "title": attack.title,
        "attacker": attack.attacker,
        "control": attack.control,
        "shows": attack.shows,
        "file": str(ATTACKS / attack.name),
    }


def as_record(results: tuple[Result, ...]) -> dict[str, object]:
    """Give all that became of them, for JSON."""
    counted = Counter(each.tier for each in results)
    return {
        "as_claimed": counted[Tier.AFFIRMING],
        "in_doubt": counted[Tier.WARNING],
        "not_held": counted[Tier.CONTRAINDICATED],
        "attacks": [
            {
                **declared(each.attack),
                "control_succeeds": each.control,
                "tandem": each.tandem,
                "seconds": round(each.seconds, 2),
                "tests": [
                    {"test": one.test, "outcome": one.outcome, "seconds": round(one.seconds, 2)}
                    | ({"said": one.said} if one.said else {})
                    for one in each.ran
                ],
            }
            for each in results
        ],
    }
