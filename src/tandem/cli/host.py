"""`tandem host`: provision this host, run its services, export its identity."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tandem.appraisal.enrolment import parse_challenge, write_proof
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import STANDARD, add_json, read_file, show_done, write_file
from tandem.cli.services import services
from tandem.errors import HostError, Refused, UsageError
from tandem.evidence.pcr_values import REGISTERS
from tandem.privileges import require_root
from tandem.settings import DEFAULT_PCRS, UID_BASE, HostPaths

EMBEDDED: Final = "embedded"
NO_ROOT: Final = "embedded pTPM: there is no hardware root, and every verdict says so"
REACHABLE: Final = 0o711  # what others own below stays reachable by them, not listed
PRIVATE: Final = 0o700
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
        "--ptpm", metavar="DEVICE", default=EMBEDDED, help="the machine's TPM, as /dev/tpm0"
    )
    init.add_argument(
        "--pcrs", metavar="LIST", help="registers to seal to and to quote, as 0,1,2,7"
    )
    _action(init, run_init)
    _action(actions.add_parser("up", help="start Manager and builder"), run_up)
    _action(actions.add_parser("down", help="stop every guest, builder and Manager"), run_down)
    _action(actions.add_parser("status", help="say what runs, and on which pTPM"), run_status)
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

    require_root("`tandem host init`", "the Manager's files belong to a user of its own")
    registers = _registers(args.pcrs, args.ptpm)
    ptpm = EMBEDDED if args.ptpm == EMBEDDED else os.path.abspath(args.ptpm)
    paths = HostPaths(args.host.resolve())
    _refuse_existing(paths)
    with _directories(paths):
        _require_reachable(paths)
        if ptpm == EMBEDDED:
            embedded.manufacture(paths.ptpm, UID_BASE)
        initialise(paths, ptpm, registers, datetime.datetime.now(datetime.UTC))
    record = {"host": str(paths.root), "ptpm": ptpm, "pcrs": list(registers)}
    text = f"host made in {paths.root}, sealed to PCR {', '.join(map(str, registers))}"
    show_done(args, record, f"{text}\n{NO_ROOT}" if ptpm == EMBEDDED else text)
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
    show_done(args, {"started": started}, text)
    return 0


def run_down(args: argparse.Namespace) -> int:
    """Stop guests, builder and Manager, in this order."""
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
        "store_commits": status.store_commits,
        "deep_quotes": status.deep_quotes,
        "ptpm_quotes": status.ptpm_quotes,
        "open_pairs": status.open_pairs,
        "services": {each.name: each.running() for each in services(HostPaths(args.host))},
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
        credential = manager.activate(challenge.credential_blob, challenge.encrypted_secret)
    write_file(args.output, write_proof(credential), "the proof")
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
        if ptpm != EMBEDDED:
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


@contextmanager
def _directories(paths: HostPaths) -> Iterator[None]:
    """Make what is missing; what is made in this scope is taken away again where it fails."""
    wanted = {
        paths.root: REACHABLE,
        paths.manager: PRIVATE,
        paths.builder: PRIVATE,
        paths.vtpm: REACHABLE,
        paths.run: REACHABLE,
    }
    made: list[Path] = []
    try:
        for path in [each for each in wanted if each == paths.manager or not each.exists()]:
            path.parent.mkdir(mode=REACHABLE, parents=True, exist_ok=True)
            path.mkdir(mode=wanted[path])
            made.append(path)
        made.append(paths.ptpm)  # nobody else's, for `manager` is this call's
        yield
    except BaseException as error:  # an interrupt, too
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise _not_written(paths, error) from error
        raise


def _not_written(paths: HostPaths, error: OSError) -> HostError:
    return HostError(
        "TDM-HOST-DIRECTORY",
        f"cannot write {error.filename or paths.root}: {error.strerror}",
        hint="make room there, or name another directory with --host",
    )


def _require_reachable(paths: HostPaths) -> None:
    """Refuse a place that the Manager's own user cannot reach."""
    way = (paths.root, *paths.root.parents)
    shut = [path for path in way if not path.stat().st_mode & 0o001]
    if shut:
        raise HostError(
            "TDM-HOST-UNREACHABLE",
            f"{shut[0]} is closed to other users, so the Manager, which is not root, cannot reach "
            f"{paths.root}",
            hint="choose a directory below /var/lib or /var/tmp with --host",
        )
