"""`tandem guest attest`: evidence from the attester inside a guest, over virtio-serial.

What comes back is the guest's and is read as such: bounded in size and time, and kept only if it is
evidence for this request's nonce.  Whether it can be trusted is for `tandem verify`.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from pathlib import Path
from typing import Final

from tandem.cli.builder_client import BuilderClient
from tandem.cli.host_log import EVENTS, IMA
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import hexadecimal, seconds, show_done, write_file
from tandem.errors import HostError, Refused, UntrustedInput, UsageError, excerpt
from tandem.evidence.bundle import MAX_BUNDLE, add_host_logs, parse_evidence
from tandem.evidence.deep_quote import MAX_USER_DATA, NONCE_SIZE
from tandem.evidence.strict_json import is_plain
from tandem.values import checked_name
from tandem.wire.builder_rpc import AttachAttester

SECONDS: Final = 120
BLOCK: Final = 64 * 1024
REGISTERS: Final = range(24)
_HINT: Final = "look at the guest's console: does its attester run?"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the command's own arguments."""
    parser.add_argument("--nonce", required=True, metavar="HEX", help="the verifier's, 32 bytes")
    parser.add_argument("--user-data", default="", metavar="HEX", help="up to 64 bytes to bind")
    parser.add_argument("--pcrs", default="", metavar="0,1,...", help="quoted beside 17 and 18")
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="file for the evidence"
    )
    parser.add_argument(
        *("--host-log",),
        action="store_true",
        help="put the host's event log and IMA list into the evidence, for a verifier elsewhere",
    )
    parser.add_argument("--timeout", type=seconds, default=SECONDS, metavar="SECONDS")


def run(args: argparse.Namespace) -> int:
    """Ask the attester and write what it answers."""
    nonce = hexadecimal(args.nonce, "nonce")
    if len(nonce) != NONCE_SIZE:
        raise _bad(f"the nonce has {len(nonce)} bytes, not {NONCE_SIZE}")
    request: dict[str, object] = {"nonce": nonce.hex()}
    if args.user_data:
        request["user_data"] = _user_data(args.user_data)
    if args.pcrs:
        request["pcrs"] = _registers(args.pcrs)
    with BuilderClient(Path(args.host)) as builder:
        port = builder.attach(AttachAttester(name=checked_name(args.name, "guest")))
    with port:
        evidence = ask(port, request, args.timeout)
    if args.host_log:
        evidence = add_host_logs(evidence, _host_logs(Path(args.host)))
    write_file(args.output, evidence + b"\n", "evidence")
    record = {"guest": args.name, "output": args.output, "bytes": len(evidence)}
    show_done(args, record, f"{len(evidence)} bytes of evidence in {args.output}")
    return 0


def _host_logs(host: Path) -> dict[str, bytes]:
    """Fetch the host's logs, after the quote: the list must go at least as far."""
    with ManagerClient(host) as manager:
        logs = {"host_log": manager.host_log(EVENTS)[0]}
        try:
            logs["ima_log"] = manager.host_log(IMA)[0]
        except Refused as error:
            if error.code != "TDM-HOST-LOG-ABSENT":
                raise
    return logs


def ask(port: socket.socket, request: dict[str, object], seconds: float) -> bytes:
    """Send a request and wait for the line of evidence that answers it."""
    begun = time.monotonic()
    try:
        port.settimeout(seconds)
        port.sendall(b"\n" + json.dumps(request).encode("ascii") + b"\n")
        while True:
            line = _receive_line(port, begun, seconds)
            if _answers(line, str(request["nonce"])):
                return line
    except TimeoutError as error:
        raise HostError(
            "TDM-ATTESTER-SILENT",
            f"the guest's attester did not answer in {seconds} s",
            hint=_HINT,
        ) from error


def _receive_line(port: socket.socket, begun: float, seconds: float) -> bytes:
    """Read one line; the attester writes nothing after it before it is asked again."""
    line = bytearray()
    while not line.endswith(b"\n"):
        port.settimeout(_left(begun, seconds))
        received = port.recv(BLOCK)
        if not received:
            raise HostError("TDM-GUEST-ENDED", "the guest ended before it answered", hint=_HINT)
        line += received
        if len(line) > MAX_BUNDLE:
            raise _not_evidence(bytes(line), f"more than {MAX_BUNDLE} bytes without an end")
    return bytes(line).rpartition(b"\n")[0].rpartition(b"\n")[2]


def _left(begun: float, seconds: float) -> float:
    left = seconds - (time.monotonic() - begun)
    if left <= 0:
        raise TimeoutError
    if sys.stderr.isatty():
        print("waiting for the guest's attester ...", end="\r", file=sys.stderr, flush=True)
    return left


def _answers(line: bytes, nonce: str) -> bool:
    """Tell whether a line is evidence for this request; an error of the attester is raised."""
    try:
        record = json.loads(line.decode("utf-8")) if is_plain(line) else None
    except ValueError as error:
        raise _not_evidence(line, "not JSON") from error
    if isinstance(record, dict) and "error" in record:
        raise _attester_error(record["error"])
    return parse_evidence(line).answer.nonce.hex() == nonce  # an older answer may still arrive


def _attester_error(error: object) -> Refused:
    said = error if isinstance(error, dict) else {}
    problem = ascii(str(said.get("problem", "no reason given"))[:500])
    return Refused("TDM-ATTESTER-REFUSED", f"the guest's attester refused: {problem}", hint=_HINT)


def _user_data(text: str) -> str:
    data = hexadecimal(text, "user data")
    if len(data) > MAX_USER_DATA:
        raise _bad(f"the user data has {len(data)} bytes, more than {MAX_USER_DATA}")
    return data.hex()


def _registers(text: str) -> list[int]:
    parts = set(text.split(","))
    if not parts <= {str(index) for index in REGISTERS}:
        raise _bad(f"{text[:64]!a} is not a list of PCRs from 0 to 23")
    return sorted(map(int, parts))


def _bad(problem: str) -> UsageError:
    return UsageError("TDM-ATTEST-BAD-REQUEST", problem, hint="see `tandem guest attest --help`")


def _not_evidence(data: bytes, problem: str) -> UntrustedInput:
    return UntrustedInput(
        "TDM-ATTESTER-NO-EVIDENCE",
        f"the guest answered no evidence: {problem}: {excerpt(data)}",
        hint=_HINT,
        offset=0,
    )
