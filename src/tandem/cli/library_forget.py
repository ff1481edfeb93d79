"""`tandem library forget`: let a library begin anew, whatever version of it was seen before."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from tandem.cli.administration import add_key, administer
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import add_json, show_done
from tandem.values import checked_name
from tandem.wire.administration import ForgetLibrary

HOST_KEY: Final = "the host's private approval key (PEM)"
EXAMPLES: Final = """\
examples:
  tandem library forget main --key approval.key

For a library whose keys were stolen and that somebody signed with the highest version there is: new
keys, another --version, and what the thief signed is no longer the newest.
"""


def declare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = verbs.add_parser(
        "forget",
        help="let a library begin anew at any version; the host's administrator signs this",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="the library's name, as `tandem library list` shows it")
    add_key(parser, HOST_KEY)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Have the Manager forget what it knows of the library's versions."""
    name = checked_name(args.name, "library")
    with ManagerClient(Path(args.host)) as manager:
        administer(manager, args, ForgetLibrary(library=name))
    text = f"no version of library {name} is known any more: the next start decides anew"
    show_done(args, {"library": name}, text)
    return 0
