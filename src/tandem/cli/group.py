"""`tandem group`: divide this host among tenants: keys, limits, certificates of their own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.cli.administration import GROUP_KEY, HOST_KEY, add_key, administer
from tandem.cli.approval_keys import approval_key
from tandem.cli.group_states import add_approving, approve_present
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import STANDARD, add_json, show_done, write_file
from tandem.wire.administration import AddGroup, AllowLibraries, RemoveGroup, SetLimits
from tandem.wire.group_rpc import (
    AskGroup,
    AskGroups,
    AskRevocations,
    GroupShown,
    Names,
    RevocationsPage,
)

VTPMS: Final = 1000
RUNNING: Final = 100
COMMITS: Final = 200
EXAMPLES: Final = """\
examples:
  tandem group add red --key tandem-approval.key --group-key red.key
  tandem group approve red --key red.key         this state of the host may open it
  tandem group limits red --key tandem-approval.key --running 20
  tandem group ca red -o red-ca.pem && tandem group crl red -o red-crl.pem
"""
Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_parser(commands: Actions) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "group",
        help="divide this host among tenants",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _action(actions.add_parser("list", help="name all groups"), run_list)
    _add_changes(actions)
    add_approving(actions, _named)
    show = _named(actions, "show", "say who speaks for a group, what it may use and uses")
    _action(show, run_show)
    for name, what, run in (
        ("ca", "write the group's CA certificate (PEM)", run_ca),
        ("crl", "write the group's certificate revocation list (PEM)", run_crl),
    ):
        writing = _named(actions, name, what)
        writing.add_argument(
            "-o", "--output", metavar="FILE", default=STANDARD, help="default: print"
        )
        _action(writing, run)


def _add_changes(actions: Actions) -> None:
    add = _named(actions, "add", "found a group, with a CA key in the pTPM")
    add_key(add, HOST_KEY)
    add.add_argument(
        "--group-key",
        metavar="FILE",
        required=True,
        help="the group's key (PEM): made there, or the private or public one that is there",
    )
    _add_signers(add)
    _add_limits(add, vtpms=VTPMS, running=RUNNING, commits=COMMITS)
    _action(add, run_add)
    remove = _named(actions, "remove", "end a group")
    add_key(remove, HOST_KEY)
    remove.add_argument(
        "--with-vtpms", action="store_true", help="its vTPMs, too: what they sealed is lost"
    )
    _action(remove, run_remove)
    limits = _named(actions, "limits", "say what a group may use; what is not named stays")
    add_key(limits, HOST_KEY)
    _add_limits(limits, vtpms=None, running=None, commits=None)
    _action(limits, run_limits)
    libraries = _named(actions, "libraries", "say whose libraries a group's guests come from")
    add_key(libraries, GROUP_KEY)
    _add_signers(libraries)
    _action(libraries, run_libraries)


def run_list(args: argparse.Namespace) -> int:
    """Name all groups."""
    with ManagerClient(args.host) as manager:
        names = list(all_names(lambda after: manager.ask(AskGroups(after=after), Names)))
    show_done(args, {"groups": names}, "\n".join(names))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Say what is known of a group."""
    with ManagerClient(args.host) as manager:
        shown = _ask_group(manager, args.group)
    certificate = x509.load_der_x509_certificate(shown.ca_certificate)
    record = {
        "group": shown.group,
        "open": shown.is_open,
        "closed because": shown.closed,
        "administrator": "the host's" if shown.own else "its own",
        "administrator key": shown.authority.hex(),
        "libraries of": list(shown.signers) or "all that the host trusts",
        "generation": shown.generation,
        "approved states": shown.approvals,
        "vtpms": f"{shown.vtpms} of {shown.vtpms_most}",
        "running pairs": f"{shown.running} of {shown.running_most}",
        "states a second": shown.commits_most,
        "ca": certificate.subject.rfc4514_string(),
        "newest crl": shown.crl_number,
    }
    text = "\n".join(f"{name:18} {value}" for name, value in record.items() if value != "")
    show_done(args, {name.replace(" ", "_"): value for name, value in record.items()}, text)
    return 0


def run_add(args: argparse.Namespace) -> int:
    """Found a group; with its private key at hand, the present state of the host may open it."""
    with ManagerClient(args.host) as manager, approval_key(args.group_key, args.host) as found:
        private = found.key if isinstance(found.key, ec.EllipticCurvePrivateKey) else None
        key = found.key
        public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
        action = AddGroup(
            group=args.group,
            authority=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            signers=tuple(args.signer),
            vtpms_most=args.vtpms,
            running_most=args.running,
            commits_most=args.commits,
        )
        administer(manager, args, action)
        if private is not None:
            approve_present(manager, args.group, private, generation=1)
    opens = "opens in this state of the host"
    lacks = f"stays closed until its administrator approves: `tandem group approve {args.group}`"
    made = f"; its key was made in {found.path}: give it to its administrator" * found.made
    text = f"group {args.group} {lacks if private is None else opens}{made}"
    show_done(args, {"group": args.group, "approved": private is not None}, text)
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """End a group."""
    with ManagerClient(args.host) as manager:
        administer(manager, args, RemoveGroup(group=args.group, vtpms=args.with_vtpms))
    show_done(args, {"group": args.group}, f"group {args.group} is no more")
    return 0


def run_limits(args: argparse.Namespace) -> int:
    """Change a group's limits."""
    with ManagerClient(args.host) as manager:
        now = _ask_group(manager, args.group)
        action = SetLimits(
            group=args.group,
            vtpms_most=args.vtpms or now.vtpms_most,
            running_most=args.running or now.running_most,
            commits_most=args.commits or now.commits_most,
        )
        administer(manager, args, action)
    limits = {
        "vtpms": action.vtpms_most,
        "running": action.running_most,
        "commits": action.commits_most,
    }
    text = ", ".join(f"{name} {most}" for name, most in limits.items())
    show_done(args, {"group": args.group, **limits}, f"group {args.group} may use: {text}")
    return 0


def run_libraries(args: argparse.Namespace) -> int:
    """Say whose libraries a group starts guests from."""
    with ManagerClient(args.host) as manager:
        action = AllowLibraries(group=args.group, signers=tuple(args.signer))
        administer(manager, args, action)
    whose = ", ".join(args.signer) or "all keys that the host trusts"
    text = f"group {args.group} starts guests from libraries of {whose}"
    show_done(args, {"group": args.group, "signers": args.signer}, text)
    return 0


def run_ca(args: argparse.Namespace) -> int:
    """Write the CA certificate: the trust anchor of all that the group's vTPMs have."""
    with ManagerClient(args.host) as manager:
        der = _ask_group(manager, args.group).ca_certificate
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    return _written(args, pem, "the CA certificate")


def run_crl(args: argparse.Namespace) -> int:
    """Write the revocation list; it is signed anew where that is due."""
    der = b""
    with ManagerClient(args.host) as manager:
        while True:
            asked = AskRevocations(group=args.group, offset=len(der))
            page = manager.ask(asked, RevocationsPage)
            der += page.data
            if len(der) >= page.total or not page.data:
                break
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    return _written(args, pem, "the revocation list")


def all_names(ask: Callable[[str], Names]) -> Iterator[str]:
    """Give names, page by page."""
    page = ask("")
    yield from page.names
    while page.more and page.names:
        page = ask(page.names[-1])
        yield from page.names


def _ask_group(manager: ManagerClient, group: str) -> GroupShown:
    return manager.ask(AskGroup(group=group), GroupShown)


def _written(args: argparse.Namespace, content: bytes, what: str) -> int:
    write_file(args.output, content, what)
    if args.output != STANDARD:
        show_done(args, {"output": args.output}, f"{what} in {args.output}")
    return 0


def _named(actions: Actions, name: str, what: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=what)
    parser.add_argument("group", help="its name")
    return parser


def _add_signers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--signer",
        metavar="KEYID",
        action="append",
        default=[],
        help="key that signs its libraries, as `tandem library show` names it; again for more; "
        "none: all that the host trusts",
    )


def _add_limits(parser: argparse.ArgumentParser, **defaults: int | None) -> None:
    for name, what in (
        ("vtpms", "persistent vTPMs"),
        ("running", "pairs that run at once"),
        ("commits", "vTPM states that are made durable in a second"),
    ):
        most = defaults[name]
        shown = "" if most is None else f"; default {most}"
        parser.add_argument(
            f"--{name}", metavar="N", type=_count, default=most, help=f"most {what}{shown}"
        )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is not a number from 1 to 1000000")
    return int(text)


def _action(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    add_json(parser)
    parser.set_defaults(run=run)
