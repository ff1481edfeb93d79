"""`tandem host`: provision this host, run its services, export its identity."""

from __future__ import annotations

import argparse
import datetime
from contextlib import ExitStack
from typing import Final

from tandem.appraisal.enrolment import parse_challenge
from tandem.cli import host_backup, host_log, host_rollback, host_secrets, host_vtpm
from tandem.cli.approval_keys import add_approval_key, approval_key
from tandem.cli.host_directories import (
    EMBEDDED,
    REACHABLE,
    SIMULATOR,
    device_name,
    made_directories,
    require_reachable,
)
from tandem.cli.host_metrics import run_metrics
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import STANDARD, add_json, read_file, show_done, write_file
from tandem.cli.recovery_keys import recovery_text
from tandem.cli.services import services
from tandem.errors import HostError, Refused, UsageError
from tandem.evidence.enrolment import Proof, write_proof
from tandem.evidence.pcr_values import REGISTERS
from tandem.privileges import require_root
from tandem.settings import DEFAULT_PCRS, UID_BASE, HostPaths

NO_ROOT: Final = "software TPM: there is no hardware root, and every verdict says so"
ROLLBACK_WINDOWS: Final = {host_rollback.STRICT: 0, host_rollback.WINDOW: host_rollback.SECONDS}
EXAMPLES: Final = """\
examples:
  tandem host init                         an embedded swtpm stands in for the pTPM
  tandem host init --ptpm /dev/tpm0 --pcrs 0,1,2,3,4,5,6,7
  tandem host up && tandem host status
  tandem host export -o host.json          for a verifier to enrol this host
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "host",
        help="provision and run this host",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make keys, certificate authority and store, once")
    init.add_argument(
        "--ptpm",
        metavar="DEVICE",
        default=EMBEDDED,
        help="the machine's TPM, as /dev/tpm0; simulator:PATH is a software TPM's socket",
    )
    init.add_argument(
        "--pcrs", metavar="LIST", help="registers to seal to and to quote, as 0,1,2,7"
    )
    init.add_argument(
        "--rollback",
        choices=sorted(ROLLBACK_WINDOWS),
        default=host_rollback.STRICT,
        help="how much an older store may undo: nothing, or what a minute wrote (less NV wear)",
    )
    add_approval_key(init)
    _action(init, run_init)
    _action(actions.add_parser("up", help="start Manager, broker and builder"), run_up)
    _action(actions.add_parser("down", help="stop every guest and every service"), run_down)
    _action(actions.add_parser("status", help="say what runs, and on which pTPM"), run_status)
    _action(actions.add_parser("metrics", help="what is counted, for Prometheus"), run_metrics)
    host_log.declare(actions)
    host_rollback.declare(actions)
    host_vtpm.declare(actions)
    host_secrets.add_actions(actions, _action)
    host_backup.add_actions(actions, _action)
    export = actions.add_parser("export", help="write what a verifier enrols this host from")
    export.add_argument("-o", "--output", metavar="FILE", default=STANDARD, help="default: print")
    _action(export, run_export)
    activate = actions.add_parser("activate", help="answer a verifier's challenge")
    activate.add_argument("challenge", nargs="?", default=STANDARD, help="default: standard input")
    activate.add_argument("-o", "--output", metavar="FILE", default=STANDARD, help="default: print")
    _action(activate, run_activate)


def run_init(args: argparse.Namespace) -> int:
    """Provision the host; what a failed attempt made is taken away again."""
    from tandem.manager import embedded  # a verifier's machine has no pTPM libraries
    from tandem.manager.host import initialise
    from tandem.manager.recovery import shown

    require_root("`tandem host init`", "the Manager's files belong to a user of its own")
    registers = _registers(args.pcrs, args.ptpm)
    ptpm = device_name(args.ptpm)
    paths = HostPaths(args.host.resolve())
    _refuse_existing(paths)
    with made_directories(paths), approval_key(args.approval_key, paths.root) as approver:
        require_reachable(paths)
        if ptpm == EMBEDDED:
            embedded.manufacture(paths.ptpm, UID_BASE)
        recovery = initialise(
            paths,
            ptpm,
            registers,
            datetime.datetime.now(datetime.UTC),
            approval_key=approver.key,
            rollback_window=ROLLBACK_WINDOWS[args.rollback],
        )
    key = shown(recovery)
    record = {
        "host": str(paths.root),
        "ptpm": ptpm,
        "pcrs": list(registers),
        "approval_key": str(approver.path),
        "recovery_key": key,
    }
    lines = [
        f"host made in {paths.root}, sealed to PCR {', '.join(map(str, registers))}",
        approver.advice,
        recovery_text(key),
        *([NO_ROOT] if ptpm.startswith((EMBEDDED, SIMULATOR)) else []),
    ]
    show_done(args, record, "\n".join(lines))
    return 0


def run_up(args: argparse.Namespace) -> int:
    """Start what does not run yet."""
    require_root("`tandem host up`", "the Manager opens the pTPM, the builder makes processes")
    paths = HostPaths(args.host.resolve())
    if not paths.manager.exists():
        raise HostError(
            "TDM-HOST-NOT-INITIALISED",
            f"{paths.root} is no host's directory",
            hint="make the host with `tandem host init`",
        )
    paths.run.mkdir(mode=REACHABLE, exist_ok=True)
    waiting = [each for each in services(paths) if each.running() is None]
    with ExitStack() as undo:  # all that this call starts, or, at an error or interrupt, nothing
        for each in waiting:
            each.start()
            undo.callback(each.stop)
        undo.pop_all()
    started = [each.name for each in waiting]
    text = f"started: {', '.join(started)}" if started else "everything runs already"
    show_done(args, {"started": started}, "\n".join([text, *host_vtpm.wait_if_wanted(paths)]))
    return 0


def run_down(args: argparse.Namespace) -> int:
    """Stop guests and builder, then broker and Manager."""
    require_root("`tandem host down`", "the services are not this user's")
    require_root("`tandem host down`", "the services are root's")
    paths = HostPaths(args.host.resolve())
    stopped = [each.name for each in reversed(services(paths)) if each.stop()]
    text = f"stopped: {', '.join(stopped)}" if stopped else "nothing ran"
    show_done(args, {"stopped": stopped}, text)
    return 0


def run_status(args: argparse.Namespace) -> int:
    """Say what runs."""
    with ManagerClient(args.host) as manager:
        status = manager.status()
    record = {
        "ptpm": status.ptpm,
        "hardware_root": status.hardware_root,
        "host_ak_name": status.host_ak_name.hex(),
        "store_version": status.store_version,
        "store_commits": status.store_commits,
        "rollback_window": status.rollback_window,
        "nv_writes": status.nv_writes,
        "nv_budget": status.nv_budget,
        "nv_writes_a_day": status.nv_writes_a_day,
        "nv_days_left": status.nv_days_left,
        "nv_over_pace": status.nv_over_pace,
        "deep_quotes": status.deep_quotes,
        "ptpm_quotes": status.ptpm_quotes,
        "open_pairs": status.open_pairs,
        "services": {
            each.name: each.running() or each.supervised()
            for each in services(HostPaths(args.host))
        },
    }
    lines = [f"{name.replace('_', ' '):16} {value}" for name, value in record.items()]
    show_done(args, record, "\n".join(lines if status.hardware_root else [*lines, NO_ROOT]))
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write the host's export."""
    with ManagerClient(args.host) as manager:
        write_file(args.output, manager.export(), "the host's export")
    _show_written(args, "the host's export")
    return 0


def run_activate(args: argparse.Namespace) -> int:
    """Answer a challenge: only the TPM that holds both EK and AK can."""
    challenge = parse_challenge(read_file(args.challenge, "the challenge"))
    with ManagerClient(args.host) as manager:
        answer = manager.activate(challenge.credential_blob, challenge.encrypted_secret)
    proof = Proof(
        credential=answer.credential,
        attest=answer.attest,
        signature=answer.signature,
        pcrs=answer.pcrs,
    )
    write_file(args.output, write_proof(proof), "the proof")
    _show_written(args, "the proof")
    return 0


def _show_written(args: argparse.Namespace, what: str) -> None:
    """Say where it is; on standard output nothing may come beside it, and it is JSON itself."""
    if args.output != STANDARD:
        show_done(args, {"output": args.output}, f"{what} in {args.output}")


def _action(parser: argparse.ArgumentParser, run: object) -> None:
    add_json(parser)
    parser.set_defaults(run=run)


def _registers(text: str | None, ptpm: str) -> tuple[int, ...]:
    if text is None:
        if not ptpm.startswith((EMBEDDED, SIMULATOR)):
            raise UsageError(
                "TDM-HOST-PCRS-NEEDED",
                "a hardware TPM's registers are not chosen by default",
                hint="name those that the host's boot extends, as --pcrs 0,1,2,3,4,5,6,7",
            )
        return DEFAULT_PCRS
    known = {str(index): index for index in REGISTERS}
    words = text.split(",")
    if not all(word in known for word in words):
        raise UsageError(
            "TDM-HOST-PCRS-BAD",
            f"{text[:80]!a} is no list of registers",
            hint="give numbers from 0 to 23 with commas between, as 0,1,2,7",
        )
    return tuple(sorted({known[word] for word in words}))


def _refuse_existing(paths: HostPaths) -> None:
    """Refuse a host, and what is left of one: its store and keys may be all that there is."""
    if paths.identity.exists():
        raise Refused(
            "TDM-HOST-EXISTS",
            f"{paths.root} is a host's directory already",
            hint="use it, or name another directory with --host",
        )
    left = [path for path in (paths.manager, paths.ptpm) if path.exists()]
    if left:
        raise Refused(
            "TDM-HOST-HALF-MADE",
            f"{paths.root} holds {' and '.join(path.name for path in left)}/ without an identity: "
            "another `tandem host init` runs, or one was killed, or the identity was lost",
            hint="if no guest ever ran on this host, make it anew after "
            f"`rm -r {' '.join(map(str, left))}`; otherwise restore {paths.identity}",
        )
