"""`tandem vtpm`: look at persistent vTPMs, destroy them, or give up a state that is lost."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tandem.builder.directories import VARIABLES
from tandem.cli.administration import GROUP_KEY, add_key, administer
from tandem.cli.group import all_names
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import add_json, show_done
from tandem.errors import HostError
from tandem.privileges import require_root
from tandem.settings import HostPaths
from tandem.wire.administration import DestroyVtpm, MakeVtpmAnew
from tandem.wire.group_rpc import AskGroups, AskVtpm, AskVtpms, Names, VtpmShown

EXAMPLES: Final = """\
examples:
  tandem vtpm list --group red
  tandem vtpm show web
  tandem vtpm destroy web --key red.key     its certificates are revoked, what it sealed is lost
  tandem vtpm anew web --key red.key        its state is lost: a new vTPM under the same name
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "vtpm",
        help="look at persistent vTPMs",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="name all persistent vTPMs")
    listing.add_argument("--group", help="of this group alone")
    _action(listing, run_list)
    for name, what, run in (
        ("show", "say whose a vTPM is, and how far it has come", run_show),
        ("destroy", "end a vTPM for good, and revoke its certificates", run_destroy),
        ("anew", "give up a lost state: revoke the vTPM, make another of its name", run_anew),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("vtpm", help="its name")
        if run is not run_show:
            add_key(action, GROUP_KEY)
        _action(action, run)


def run_list(args: argparse.Namespace) -> int:
    """Name vTPMs, by group."""
    with ManagerClient(args.host) as manager:
        groups = (
            [args.group]
            if args.group
            else list(all_names(lambda after: manager.ask(AskGroups(after=after), Names)))
        )
        found = {group: list(all_names(_asking(manager, group))) for group in groups}
    lines = [f"{group:16} {vtpm}" for group, vtpms in found.items() for vtpm in vtpms]
    show_done(args, {"vtpms": found}, "\n".join(lines) or "no persistent vTPM")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Say what is known of a vTPM."""
    with ManagerClient(args.host) as manager:
        shown = _ask(manager, args.vtpm)
    record = {
        "vtpm": shown.vtpm,
        "id": shown.vtpm_id.hex(),
        "group": shown.group,
        "guest": shown.guest,
        "running": shown.running,
        "launches": shown.launches,
        "state": shown.state_version,
        "signers": list(shown.signers),
        "threshold": shown.threshold,
        "ek certificates": [serial.hex() for serial in shown.ek_serials],
        "ak certificates": [serial.hex() for serial in shown.ak_serials],
    }
    text = "\n".join(f"{name:18} {value}" for name, value in record.items())
    show_done(args, {name.replace(" ", "_"): value for name, value in record.items()}, text)
    return 0


def run_destroy(args: argparse.Namespace) -> int:
    """End a vTPM; its state on disk, which nothing opens any more, goes, too.

    So do the UEFI variables that its guest kept: the next guest of that name may be another's.
    """
    require_root("`tandem vtpm destroy`", "the vTPM's state is not this user's")
    with ManagerClient(args.host) as manager:
        group = _ask(manager, args.vtpm).group
        administer(manager, args, DestroyVtpm(group=group, vtpm=args.vtpm))
    shutil.rmtree(HostPaths(args.host).vtpm / args.vtpm, ignore_errors=True)
    _remove_variables(HostPaths(args.host).root / VARIABLES / f"{args.vtpm}.fd")
    text = f"vTPM {args.vtpm} is no more; publish the group's list: `tandem group crl {group}`"
    show_done(args, {"vtpm": args.vtpm, "group": group}, text)
    return 0


def _remove_variables(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(
            "TDM-VARIABLES-LEFT",
            f"the vTPM is no more, and its guest's UEFI variables in {path} are: {error.strerror}",
            hint="remove the file before another guest of that name starts",
        ) from error


def run_anew(args: argparse.Namespace) -> int:
    """Give a name a new vTPM."""
    require_root("`tandem vtpm anew`", "the vTPM's state is not this user's")
    with ManagerClient(args.host) as manager:
        before = _ask(manager, args.vtpm)
        action = MakeVtpmAnew(group=before.group, vtpm=args.vtpm)
        administer(manager, args, action)
        after = _ask(manager, args.vtpm)
    shutil.rmtree(HostPaths(args.host).vtpm / args.vtpm, ignore_errors=True)
    record = {"vtpm": args.vtpm, "was": before.vtpm_id.hex(), "is": after.vtpm_id.hex()}
    text = f"vTPM {args.vtpm} is another one from its next start on: {record['is']}"
    show_done(args, record, f"{text}; {record['was']} is revoked")
    return 0


def _ask(manager: ManagerClient, vtpm: str) -> VtpmShown:
    return manager.ask(AskVtpm(vtpm=vtpm), VtpmShown)


def _asking(manager: ManagerClient, group: str) -> Callable[[str], Names]:
    return lambda after: manager.ask(AskVtpms(group=group, after=after), Names)


def _action(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    add_json(parser)
    parser.set_defaults(run=run)
