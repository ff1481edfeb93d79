"""`tandem guest list --watch`: the table of pairs, drawn anew when something happens to one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tandem.cli import watching
from tandem.cli.builder_client import ABSENT, GONE, BuilderClient, Pairs
from tandem.errors import HostError

TICK_SECONDS: Final = 1.0  # how often the column of times is drawn anew
HOME: Final = "\x1b[H"
CLEAR_LINE: Final = "\x1b[K"
CLEAR_REST: Final = "\x1b[J"
CLEAR_ALL: Final = "\x1b[2J"
Layout = Callable[[Pairs], str]


def watch(host: Path, layout: Layout, *, as_json: bool) -> int:
    """Show the pairs until interrupted.

    A terminal is redrawn; into a pipe goes a table for each change, or a line of JSON.
    """
    live = sys.stdout.isatty() and not as_json
    if live:
        print(CLEAR_ALL, end="")
    shown: Pairs | None = None
    for page in watching.onwards(host, TICK_SECONDS):
        if page is not None and page.more:
            continue  # the past, which shows in what is listed now
        pairs = _pairs(host)
        if pairs is None:
            continue
        if live:
            print(screen(layout(pairs), *shutil.get_terminal_size()), end="", flush=True)
        elif pairs != shown:
            print(
                json.dumps(pairs, sort_keys=True) if as_json else layout(pairs) + "\n", flush=True
            )
        shown = pairs
    return 0


def screen(table: str, columns: int, lines: int) -> str:
    """Draw a table over what is on a terminal of this size, no longer and no wider than it."""
    rows = table.splitlines()
    if len(rows) > lines - 1:
        hidden = len(rows) - (lines - 2)
        rows = [*rows[: lines - 2], f"... {hidden} more"]
    return HOME + "".join(f"{row[:columns]}{CLEAR_LINE}\n" for row in rows) + CLEAR_REST


def _pairs(host: Path) -> Pairs | None:
    """List the pairs; None where the builder has just gone away."""
    try:
        with BuilderClient(host) as builder:
            return builder.guests()
    except HostError as error:
        if error.code not in (ABSENT, GONE):
            raise
        return None
