"""`tandem group state|approve`: which states of the host open a tenant's group, and who says so."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, TypeAlias

from tandem.cli.approval_keys import private_approval_key
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import STANDARD, add_json, read_file, show_done, write_file
from tandem.errors import UsageError
from tandem.evidence.host_approval import (
    Approval,
    PrivateKey,
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
from tandem.wire.group_rpc import ApproveGroup, AskGroup, GroupApproved, GroupShown
from tandem.wire.manager_rpc import AskHostState, HostStateRead

RENEW: Final = "begin a new generation: no state approved earlier opens the group again"
Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Named: TypeAlias = Callable[[Actions, str, str], argparse.ArgumentParser]


def add_approving(actions: Actions, named: Named) -> None:
    """Declare the commands; `named` makes one that takes a group's name."""
    state = named(actions, "state", "write the host's state, for the group's administrator")
    state.add_argument("--renew", action="store_true", help=RENEW)
    state.add_argument("-o", "--output", metavar="FILE", default=STANDARD, help="default: print")
    add_json(state)
    state.set_defaults(run=run_state)
    approving = named(actions, "approve", "let a state of the host open the group")
    given = approving.add_mutually_exclusive_group(required=True)
    given.add_argument("--key", metavar="FILE", help="the group's private key (PEM)")
    given.add_argument("--approval", metavar="FILE", help="bring in what was signed elsewhere")
    approving.add_argument("--state", metavar="FILE", help="a recorded state; default: the present")
    approving.add_argument("--renew", action="store_true", help=RENEW)
    approving.add_argument(
        "-o", "--output", metavar="FILE", help="write the approval, and bring it in nowhere"
    )
    add_json(approving)
    approving.set_defaults(run=run_approve)


def run_state(args: argparse.Namespace) -> int:
    """Write the host's present state for a group."""
    with ManagerClient(args.host) as manager:
        document = _present(manager, args.group, renew=args.renew)
    write_file(args.output, write_state(document), "the host's state")
    if args.output != STANDARD:
        show_done(args, {"output": args.output}, f"the host's state in {args.output}")
    return 0


def run_approve(args: argparse.Namespace) -> int:
    """Sign a state with the group's key, or take what was signed, and bring it in."""
    if args.output and args.key and args.state:  # needs no host: the administrator's own machine
        return _write(args, _signed(args, parse_state(read_file(args.state, "the host's state"))))
    with ManagerClient(args.host) as manager:
        if args.approval:
            approval = parse_approval(read_file(args.approval, "the approval"))
        elif args.state:
            approval = _signed(args, parse_state(read_file(args.state, "the host's state")))
        else:
            approval = _signed(args, _present(manager, args.group, renew=args.renew))
        if args.output:
            return _write(args, approval)
        done = _bring_in(manager, args.group, approval)
    text = f"group {args.group} opens in {done.approvals} state(s) of the host"
    record = {"group": args.group, "generation": done.generation, "approvals": done.approvals}
    show_done(args, record, text)
    return 0


def approve_present(
    manager: ManagerClient, group: str, key: PrivateKey, *, generation: int
) -> GroupApproved:
    """Let the host's present state open a group."""
    state = _read_state(manager)
    document = StateDocument(subject=f"group/{group}", generation=generation, state=state)
    refuse_blank(state)
    return _bring_in(manager, group, approve(document, key))


def _present(manager: ManagerClient, group: str, *, renew: bool) -> StateDocument:
    shown = manager.ask(AskGroup(group=group), GroupShown)
    return StateDocument(
        subject=f"group/{group}", generation=shown.generation + renew, state=_read_state(manager)
    )


def _read_state(manager: ManagerClient) -> HostState:
    return HostState(banks=manager.ask(AskHostState(), HostStateRead).banks)


def _signed(args: argparse.Namespace, document: StateDocument) -> Approval:
    refuse_blank(document.state)
    if document.subject != f"group/{args.group}":
        raise UsageError(
            "TDM-APPROVAL-OTHER-GROUP",
            f"the state is one for {document.subject}, not for group {args.group}",
            hint=f"have it written by `tandem group state {args.group}`",
        )
    return approve(document, private_approval_key(args.key))


def _write(args: argparse.Namespace, approval: Approval) -> int:
    write_file(args.output, write_approval(approval), "the approval")
    show_done(args, {"output": args.output}, f"the approval in {args.output}")
    return 0


def _bring_in(manager: ManagerClient, group: str, approval: Approval) -> GroupApproved:
    asked = ApproveGroup(
        group=group,
        generation=approval.generation,
        banks={bank: dict(values) for bank, values in approval.state.banks.items()},
        signature=approval.signature,
    )
    return manager.ask(asked, GroupApproved)
