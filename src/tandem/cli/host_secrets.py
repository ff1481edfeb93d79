"""`tandem host state|approve|recover|rotate`: which host state opens its secrets, who says so."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tandem.cli.approval_keys import add_approval_key, approval_key, private_approval_key
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import STANDARD, read_file, show_done, write_file
from tandem.cli.recovery_keys import ask_recovery_key, recovery_text
from tandem.errors import HostError, UsageError
from tandem.evidence.host_approval import (
    HOST_SUBJECT,
    Approval,
    approve,
    parse_approval,
    write_approval,
)
from tandem.evidence.host_state import (
    HostState,
    StateDocument,
    parse_state,
    refuse_blank,
    write_state,
)
from tandem.privileges import require_root
from tandem.settings import HostPaths
from tandem.values import Secret

if TYPE_CHECKING:
    from tandem.manager.identity import Identity

WHY_ROOT: Final = "the host's secrets are not this user's"
Action = Callable[[argparse.ArgumentParser, object], None]


def add_actions(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], action: Action
) -> None:
    """Declare the commands; `action` completes each as those of `tandem host` are."""
    state = actions.add_parser("state", help="write the host's state, to be approved")
    _add_predicted(state)
    state.add_argument("-o", "--output", metavar="FILE", default=STANDARD, help="default: print")
    action(state, run_state)
    approving = actions.add_parser("approve", help="approve a state of the host before it comes")
    given = approving.add_mutually_exclusive_group(required=True)
    given.add_argument("--key", metavar="KEY", help="the private approval key (PEM)")
    given.add_argument("--approval", metavar="FILE", help="bring in what was signed elsewhere")
    which = approving.add_mutually_exclusive_group()
    which.add_argument("--state", metavar="FILE", help="a recorded state; default: the present")
    _add_predicted(which)
    approving.add_argument(
        "--generation",
        type=int,
        metavar="N",
        help="of the master key that it is for; default: as the state says, which may be another "
        "host's",
    )
    approving.add_argument(
        "-o", "--output", metavar="FILE", help="write the approval, and bring it in nowhere"
    )
    action(approving, run_approve)
    recover = actions.add_parser("recover", help="open the host after an unplanned change")
    add_approval_key(recover)
    action(recover, run_recover)
    rotate = actions.add_parser("rotate", help="put the running host under a new master key")
    rotate.add_argument("--key", metavar="KEY", required=True, help="private approval key (PEM)")
    action(rotate, run_rotate)


def run_state(args: argparse.Namespace) -> int:
    """Write the present state of the host, or the one that an embedded pTPM will be in."""
    document = _document(args)
    write_file(args.output, write_state(document), "the host's state")
    if args.output != STANDARD:
        text = f"the host's state, for generation {document.generation}, in {args.output}"
        show_done(args, {"output": args.output, "generation": document.generation}, text)
    return 0


def run_approve(args: argparse.Namespace) -> int:
    """Sign a state with the approval key, or take what was signed, and bring it in."""
    approval = _signed(args) if args.key else _given(args)
    if args.output:
        write_file(args.output, write_approval(approval), "the approval")
        show_done(args, {"output": args.output}, f"the approval in {args.output}")
        return 0
    from tandem.manager.changes import bring_in  # a verifier's machine has no pTPM libraries
    from tandem.manager.offline import as_manager

    require_root("`tandem host approve`", WHY_ROOT)
    paths = HostPaths(args.host.resolve())
    done = as_manager(lambda: bring_in(paths, approval))
    registers = ", ".join(map(str, approval.state.registers))
    text = f"approved: the host opens with these values of PCR {registers}, too"
    show_done(args, {"generation": approval.generation, **done}, text)
    return 0


def run_recover(args: argparse.Namespace) -> int:
    """Open the host by its recovery key, and seal it for its present state."""
    from tandem.manager.changes import recover
    from tandem.manager.identity import read_identity
    from tandem.manager.offline import as_manager, in_place_of_manager

    require_root("`tandem host recover`", WHY_ROOT)
    paths = HostPaths(args.host.resolve())
    identity = read_identity(paths.identity)
    typed = ask_recovery_key()
    with (
        approval_key(args.approval_key, paths.root) as approver,
        in_place_of_manager(paths, identity.ptpm) as opened,
    ):
        done = as_manager(lambda: recover(paths, opened.ptpm, typed, approver.key))
    lines = [
        f"recovered: the host is sealed anew for its present state (generation "
        f"{done['generation']})",
        approver.advice,
        recovery_text(str(done["recovery_key"])),
    ]
    show_done(args, {"approval_key": str(approver.path), **done}, "\n".join(lines))
    return 0


def run_rotate(args: argparse.Namespace) -> int:
    """Have the Manager make the next generation of its master key."""
    from tandem.manager.recovery import shown

    key = private_approval_key(args.key)
    with ManagerClient(args.host) as manager:
        present = manager.host_state()
        state = HostState(banks=present.banks)
        coming = StateDocument(subject=HOST_SUBJECT, generation=present.generation + 1, state=state)
        done = manager.rotate(approve(coming, key))
    recovery = shown(Secret(done.recovery_key))
    text = (
        f"rotated: generation {done.generation} of the master key; approvals of former ones are "
        f"void\n{recovery_text(recovery)}"
    )
    show_done(args, {"generation": done.generation, "recovery_key": recovery}, text)
    return 0


def _signed(args: argparse.Namespace) -> Approval:
    document = (
        parse_state(read_file(args.state, "the host's state")) if args.state else _document(args)
    )
    if args.generation is not None:
        document = replace(document, generation=args.generation)
    refuse_blank(document.state)
    approval = approve(document, private_approval_key(args.key))
    return parse_approval(write_approval(approval))  # a generation that there is none is refused


def _given(args: argparse.Namespace) -> Approval:
    if args.state or args.predicted or args.generation is not None:
        raise UsageError(
            "TDM-APPROVAL-HAS-STATE",
            "an approval names the state and the generation that it is for",
            hint="leave --state, --predicted and --generation out",
        )
    return parse_approval(read_file(args.approval, "the approval"))


def _document(args: argparse.Namespace) -> StateDocument:
    """Give the state that the host is in, or the one that it will be in."""
    from tandem.manager.identity import read_identity

    require_root("the host's state", WHY_ROOT)
    paths = HostPaths(args.host.resolve())
    identity = read_identity(paths.identity)
    state = _predicted(identity) if args.predicted else _present(paths, identity)
    return StateDocument(subject=HOST_SUBJECT, generation=identity.generation, state=state)


def _predicted(identity: Identity) -> HostState:
    from tandem.manager import host_log
    from tandem.manager.identity import EMBEDDED

    if identity.ptpm != EMBEDDED:
        raise UsageError(
            "TDM-HOST-STATE-NOT-PREDICTED",
            f"what {identity.ptpm} will hold after the next boot is its firmware's doing",
            hint="boot the same change on a machine alike and record it there with `tandem host "
            "state`, or boot it here and use `tandem host recover`",
        )
    return host_log.coming_state(host_log.measure_host(), identity.registers)


def _present(paths: HostPaths, identity: Identity) -> HostState:
    """Ask the Manager, or the pTPM itself where no Manager runs."""
    from tandem.manager.offline import in_place_of_manager

    try:
        with ManagerClient(paths.root) as manager:
            return HostState(banks=manager.host_state().banks)
    except HostError as error:
        if error.code != "TDM-MANAGER-ABSENT":
            raise
    with in_place_of_manager(paths, identity.ptpm) as opened:
        return opened.ptpm.read_state(identity.registers)


def _add_predicted(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--predicted",
        action="store_true",
        help="the state after the next start, where the embedded pTPM makes that known",
    )
