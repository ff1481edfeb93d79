"""What watching shows: the live table, an event for a person, names for a shell."""

from __future__ import annotations

import subprocess

import pytest

from tandem.cli.completion import bash_script, installed_groups
from tandem.cli.events import as_text
from tandem.cli.guest import as_text as guest_as_text
from tandem.cli.guest_watch import CLEAR_LINE, CLEAR_REST, HOME, screen
from tandem.cli.main import build_parser


def rows_of(drawn: str) -> list[str]:
    assert drawn.startswith(HOME)
    assert drawn.endswith(CLEAR_REST)
    return drawn[len(HOME) : -len(CLEAR_REST)].replace(CLEAR_LINE, "").splitlines()


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (10, 24), (80, 4), (1, 3)])
def test_a_table_never_leaves_the_terminal(columns: int, lines: int) -> None:
    # Given a table that is larger than the terminal in either direction
    table = "\n".join(f"row {number} " + "x" * 100 for number in range(40))
    # When it is drawn
    rows = rows_of(screen(table, columns, lines))
    # Then it fits, with a line left for the cursor, and says that there is more
    assert len(rows) == lines - 1
    assert max(map(len, rows[:-1]), default=0) <= columns
    assert rows[-1].startswith("... "[:columns])


def test_a_small_table_is_drawn_whole() -> None:
    # Given two rows
    # When they are drawn on a usual terminal
    # Then both are there, and nothing else
    assert rows_of(screen("GUEST\nweb", 80, 24)) == ["GUEST", "web"]


def test_a_step_of_a_pair_is_a_line() -> None:
    # Given an event as the builder's feed has it
    event = {
        "number": 3, "time": "2026-01-01T12:00:00.250+00:00", "level": "info",
        "process": "builder", "event": "pair.stepped", "guest": "web", "pair": "ab" * 16,
        "met": "guest-gone", "state": "vtpm_left",
    }  # fmt: skip
    # When it is laid out
    line = as_text(event)
    # Then it says whose it is, and what was met
    assert "00:00.250" in line
    assert "web" in line
    assert line.endswith("guest-gone -> vtpm_left")


def test_another_event_shows_its_fields() -> None:
    # Given a failure
    event = {
        "number": 4, "time": "2026-01-01T12:00:00.250+00:00", "level": "warning",
        "process": "builder", "event": "pair.failed", "guest": "web", "pair": "",
        "action": "measure", "code": "TDM-INPUT-DIFFERS",
    }  # fmt: skip
    # When it is laid out
    # Then what is special about it follows
    assert as_text(event).endswith("pair.failed  action=measure  code=TDM-INPUT-DIFFERS")


def test_the_time_line_says_how_much_later_each_step_came() -> None:
    # Given a pair with two steps, a quarter of a second apart
    pair = {
        "guest": "web", "entry": "web", "state": "running", "pair_id": "ab" * 16,
        "launch_number": 1, "accelerator": "tcg", "vtpm_pid": 1, "hypervisor_pid": 2,
        "started_at": 0, "times": {},
        "timeline": [
            {"at": 1000.0, "event": "start_asked", "state": "measuring"},
            {"at": 1000.25, "event": "measurement_matched", "state": "measured"},
        ],
    }  # fmt: skip
    # When it is shown
    first, second = guest_as_text(pair).splitlines()[-2:]
    # Then the second line has the difference
    assert "+0.000 s  start_asked -> measuring" in first
    assert "+0.250 s  measurement_matched -> measured" in second


def test_a_shell_completes_the_names_of_guests() -> None:
    # Given the script, and a tandem that knows two guests
    script = bash_script(build_parser(*installed_groups()))
    stub = 'tandem() { [[ "$*" == "--host /h guest list --names" ]] && printf "web\\nwiki\\n"; }\n'
    typed = "COMP_WORDS=(tandem --host /h guest stop w); COMP_CWORD=5; _tandem\n"
    shown = 'echo "${COMPREPLY[@]}"\n'
    # When a name is begun after `guest stop`
    done = subprocess.run(
        ["bash"], input=script + stub + typed + shown, capture_output=True, text=True, check=True
    )
    # Then both are offered
    assert done.stdout.split() == ["web", "wiki"]
