"""`tandem host log`: the host's event log or IMA list, for a verifier."""

from __future__ import annotations

import argparse
import hashlib
from typing import Final

from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import STANDARD, add_json, show_done, write_file
from tandem.errors import HostError, UsageError

EVENTS: Final = "events"  # the logs of a host, as the Manager names them
IMA: Final = "ima"
MAX_DIGITS: Final = 18


def declare(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = actions.add_parser("log", help="write the host's event log, or its IMA list")
    parser.add_argument("--ima", action="store_true", help="the kernel's IMA list")
    parser.add_argument(
        "--offset",
        type=_offset,
        default=0,
        metavar="N",
        help="leave out the first N bytes, which the reader has already",
    )
    parser.add_argument("-o", "--output", metavar="FILE", default=STANDARD, help="default: print")
    add_json(parser)
    parser.set_defaults(run=run)


def _offset(text: str) -> int:
    """Read a number of bytes, for argparse."""
    if not text.isdecimal() or not text.isascii() or len(text) > MAX_DIGITS:
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is not a number of bytes")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Fetch the log, and say how long it is and what the whole of it digests to."""
    log = IMA if args.ima else EVENTS
    with ManagerClient(args.host) as manager:
        data, whole = manager.host_log(log, args.offset)
    if args.offset > whole.total:
        raise UsageError(
            "TDM-HOST-LOG-OFFSET",
            f"the log has {whole.total} bytes, fewer than offset {args.offset}",
            hint="give the number of bytes that you have; of a shorter log, of another boot, fetch "
            "the whole",
        )
    check_whole(data, args.offset, whole.digest)
    write_file(args.output, data, "the host's log")
    if args.output != STANDARD:
        record = {
            "output": args.output,
            "log": log,
            "offset": args.offset,
            "total": whole.total,
            "sha256": whole.digest.hex(),
        }
        text = f"{len(data)} bytes from {args.offset} on in {args.output}; all {whole.total} have "
        show_done(args, record, f"{text}SHA-256 {whole.digest.hex()}")
    return 0


def check_whole(data: bytes, offset: int, digest: bytes) -> None:
    """Refuse a whole log that does not have the digest which was said."""
    if not offset and hashlib.sha256(data).digest() != digest:
        raise HostError(
            "TDM-HOST-LOG-TORN",
            "the host's log is not what the Manager said it was",
            hint="ask again; look at the Manager's log if it stays so",
        )
