"""`tandem host vtpm`: the host's own vTPM, for its disks, its secrets and its quotes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tandem.cli.builder_client import BuilderClient
from tandem.cli.output import add_json
from tandem.errors import HostError
from tandem.settings import HostPaths
from tandem.wire.builder_rpc import AskHostVtpm, StartHostVtpm, StopHostVtpm

EXAMPLES = """\
examples:
  tandem host vtpm start                   the kernel then has /dev/tpmrm1, say
  tandem host vtpm status
  systemd-cryptenroll --tpm2-device=/dev/tpmrm1 --tpm2-pcrs=17+18 /dev/sda3
"""
REQUESTS = {
    "start": (StartHostVtpm, "give the host a vTPM whose launch measurements are the host's"),
    "stop": (StopHostVtpm, "end it, and its device with it"),
    "status": (AskHostVtpm, "say which device it is and what was measured"),
}


def declare(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands below `tandem host`."""
    parser = actions.add_parser(
        "vtpm",
        help="start, stop and look at the host's own vTPM",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, (request, words) in REQUESTS.items():
        verb = verbs.add_parser(name, help=words)
        add_json(verb)
        verb.set_defaults(run=run, request=request)


def run(args: argparse.Namespace) -> int:
    """Ask the builder, and say where the host's vTPM stands."""
    with BuilderClient(args.host) as builder:
        shown = builder.host_vtpm(args.request())
    print(json.dumps(shown, sort_keys=True) if args.json else as_text(shown))
    return 0


def wait_if_wanted(paths: HostPaths) -> list[str]:
    """Wait for the vTPM that starts with the host, where it is to have one; say what came of it."""
    if not paths.host_vtpm.exists():
        return []
    with BuilderClient(paths.root) as builder:
        shown = builder.host_vtpm(AskHostVtpm())
    if "failure" in shown:
        failure = shown["failure"]
        raise HostError(
            failure["code"],
            f"the services run, the host's own vTPM does not: {failure['problem']}",
            hint=failure["hint"],
        )
    return [f"the host's vTPM is {shown['device']}"] if shown.get("device") else []


def as_text(shown: dict[str, Any]) -> str:
    """Lay it out for a person."""
    lines = [f"the host's vTPM: {shown['state']}"]
    if shown.get("device"):
        lines.append(f"  device      {shown['device']}, process {shown['vtpm_pid']}")
    if "launch" in shown:
        which = "first" if shown["first_of_boot"] else "NOT the first"
        lines.append(f"  launch      {shown['launch_number']}, {which} of its boot")
        lines.append(f"  pair        {shown['pair_id']}")
        lines += [
            f"    PCR {event['register']}  {event['event']:<14} {json.dumps(event['data'])[:90]}"
            for event in shown["launch"]["events"]
        ]
        registers = shown["launch"]["registers"].items()
        lines += [f"  PCR {index}  sha256:{value}" for index, value in registers]
    if "failure" in shown:
        failure = shown["failure"]
        lines.append(f"  not started: {failure['problem']} [{failure['code']}]")
        lines.append(f"  hint: {failure['hint']}")
    return "\n".join(lines)
