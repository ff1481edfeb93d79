"""`tandem host rollback`: choose what an older store may undo, and how much that wears the TPM."""

from __future__ import annotations

import argparse
from typing import Final

from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import add_json, show_done
from tandem.wire.manager_rpc import ChangeRollback, RollbackChanged

STRICT: Final = "strict"
WINDOW: Final = "window"
SECONDS: Final = 60


def declare(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = actions.add_parser("rollback", help="choose what an older store may undo")
    parser.add_argument(
        "mode",
        choices=(STRICT, WINDOW),
        help="strict: nothing, each change is a write of the TPM; window: the last changes",
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=SECONDS,
        metavar="N",
        help=f"length of the window (default: {SECONDS})",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Have the Manager keep the choice; it holds from its next start on."""
    asked = 0 if args.mode == STRICT else args.seconds
    with ManagerClient(args.host) as manager:
        window = manager.ask(ChangeRollback(window=asked), RollbackChanged).window
    text = "strict: nothing is undone" if not window else f"window: up to {window} s of changes"
    show_done(
        args,
        {"rollback_window": window},
        f"{text}; from the next start of the host's services on (`tandem host down`, then `up`)",
    )
    return 0
