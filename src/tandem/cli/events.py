"""`tandem events`: what happens to guests and their vTPMs, as it happens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tandem.cli import watching
from tandem.cli.output import add_json
from tandem.values import checked_name
from tandem.wire.builder_rpc import Events

EXAMPLES: Final = """\
examples:
  tandem events                            what the builder remembers of its guests
  tandem events --follow                   and whatever happens from now on; Ctrl-C ends it
  tandem events web --follow --json | jq -r '[.time, .event, .state] | @tsv'

Each event is the very record that the builder's log (or, under systemd, the journal) has.
"""
HEAD: Final = ("number", "time", "level", "process", "event", "guest", "pair")
PAIR_DIGITS: Final = 12


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "events",
        help="watch what happens to guests",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("guest", nargs="?", metavar="GUEST", help="of this guest alone")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print events, a line each, until there is none or, following, until interrupted."""
    guest = None if args.guest is None else checked_name(args.guest, "guest")
    host = Path(args.host)
    pages: Iterable[Events | None] = watching.onwards(host) if args.follow else watching.past(host)
    for page in pages:
        if page is None:
            continue
        if page.missed and not args.json:
            print(f"({page.missed} earlier events are in the builder's log alone)")
        for line in page.lines:
            event = json.loads(line)
            if guest is None or event.get("guest") == guest:
                print(line if args.json else as_text(event), flush=True)
    return 0


def as_text(event: Mapping[str, Any]) -> str:
    """Lay an event out for a person: when, whose, what, and what is special about it."""
    at = datetime.fromisoformat(event["time"]).astimezone()
    head = (
        at.strftime("%H:%M:%S.%f")[:-3],
        f"{event.get('guest', '-'):<16}",
        f"{event.get('pair', '')[:PAIR_DIGITS]:<{PAIR_DIGITS}}",
    )
    rest = [f"{name}={value}" for name, value in event.items() if name not in HEAD]
    if event["event"] == "pair.stepped":
        return "  ".join((*head, f"{event['met']} -> {event['state']}"))
    return "  ".join((*head, event["event"], *rest))
