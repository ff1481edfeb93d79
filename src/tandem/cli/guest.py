"""`tandem guest`: start, stop and look at guests, each with its vTPM."""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tandem.cli import guest_attest, guest_console, guest_debug, guest_watch
from tandem.cli.builder_client import BuilderClient, Pairs
from tandem.cli.output import add_json, read_file, seconds, show_done
from tandem.values import checked_name
from tandem.wire.builder_rpc import (
    AttachConsole,
    PauseGuest,
    RestartGuest,
    ResumeGuest,
    StartGuest,
    StopGuest,
)

STOP_SECONDS: Final = 30
EXAMPLES: Final = """\
examples:
  tandem guest start web                   the library's entry `web`, as a pair
  tandem guest start web-2 --entry web     a second guest from the same entry
  tandem guest list --watch                a table that follows what happens
  tandem guest show web                    the pair, its launch, its time line
  tandem guest attest web --nonce 6c1f... -o evidence.json
  tandem guest console web                 Ctrl-] leaves it
  tandem guest pause web                   its processors stand still, its vTPM waits
  tandem guest resume web
  tandem guest restart web                 a new pair, with the same persistent vTPM
  tandem guest stop web                    its system is asked; powered off when it takes too long
  tandem guest list --ended                why the others are gone
"""
Commands = argparse._SubParsersAction  # argparse names the type of add_subparsers nowhere else


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "guest",
        help="start, stop and look at guests",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    start = _verb(verbs, "start", run_start, "build a pair from the library and start it", "NAME")
    start.add_argument("--entry", help="entry of the library (default: the guest's name)")
    start.add_argument("--library", metavar="FILE", help="another signed library than the host's")
    start.add_argument(
        "--library-key",
        action="append",
        default=[],
        metavar="PUB",
        help="public key to trust for this library; the launch measures who signed it",
    )
    stop = _verb(verbs, "stop", run_stop, "stop a guest, and its vTPM with it")
    stop.add_argument("--kill", action="store_true", help="power off without asking its system")
    restart = _verb(verbs, "restart", run_restart, "stop a guest and start it again, as a new pair")
    for each in (stop, restart):
        each.add_argument(
            "--timeout",
            type=seconds,
            default=STOP_SECONDS,
            metavar="SECONDS",
            help=f"power off when its system has not ended by then (default {STOP_SECONDS})",
        )
    kill = _verb(verbs, "kill", run_stop, "power a guest off, as `stop --kill` does")
    kill.set_defaults(kill=True, timeout=0)
    _verb(verbs, "pause", run_pause, "stop a guest's processors; its vTPM waits for it")
    _verb(verbs, "resume", run_resume, "let a paused guest go on")
    _verb(verbs, "show", run_show, "show a pair and what was measured of its launch")
    listing = verbs.add_parser("list", help="list the pairs that run")
    listing.add_argument("--watch", action="store_true", help="go on showing what changes")
    listing.add_argument(
        "--ended", action="store_true", help="why guests are gone, since the builder was started"
    )
    listing.add_argument("--names", action="store_true", help="names alone, for scripts")
    add_json(listing)
    listing.set_defaults(run=run_list)
    guest_console.declare(_verb(verbs, "console", guest_console.run, "use the serial console"))
    _verb(verbs, "debug", guest_debug.run, "connect gdb, where the guest's entry allows it")
    guest_attest.declare(_verb(verbs, "attest", guest_attest.run, "get evidence from a guest"))


def connect_console(host: Path, guest: str) -> socket.socket:
    """Connect to a guest's serial console; one connection at a time."""
    with BuilderClient(host) as builder:
        return builder.attach(AttachConsole(name=guest))


def run_start(args: argparse.Namespace) -> int:
    """Start a guest and tell the time of each step."""
    request = StartGuest(
        name=checked_name(args.name, "guest"),
        entry=checked_name(args.entry or args.name, "entry"),
        manifest=str(Path(args.library).absolute()) if args.library else "",
        keys=tuple(read_file(path, "public key") for path in args.library_key),
    )
    return _follow_start(args, request)


def run_restart(args: argparse.Namespace) -> int:
    """Stop a guest, start it again, and tell the time of each step of the new start."""
    name = checked_name(args.name, "guest")
    return _follow_start(args, RestartGuest(name=name, seconds=args.timeout))


def _follow_start(args: argparse.Namespace, request: StartGuest | RestartGuest) -> int:
    def tell(step: str, microseconds: int) -> None:
        if not args.json:
            print(f"{microseconds / 1000:8.1f} ms  {step}", flush=True)

    with BuilderClient(Path(args.host)) as builder:
        pairs = builder.start(request, tell)
    if args.json:
        print(json.dumps(pairs, sort_keys=True))
    else:
        print(f"guest {args.name} runs as pair {pairs[0]['pair_id']}")
    return 0


def run_pause(args: argparse.Namespace) -> int:
    """Pause a guest."""
    return _hold(args, PauseGuest(name=checked_name(args.name, "guest")))


def run_resume(args: argparse.Namespace) -> int:
    """Let a paused guest go on."""
    return _hold(args, ResumeGuest(name=checked_name(args.name, "guest")))


def _hold(args: argparse.Namespace, request: PauseGuest | ResumeGuest) -> int:
    with BuilderClient(Path(args.host)) as builder:
        [pair] = builder.hold(request)
    shown = {"guest": pair["guest"], "pair_id": pair["pair_id"], "state": pair["state"]}
    show_done(args, shown, f"guest {pair['guest']} is {pair['state']}")
    return 0


def run_stop(args: argparse.Namespace) -> int:
    """Stop a guest."""
    name = checked_name(args.name, "guest")
    with BuilderClient(Path(args.host)) as builder:
        builder.stop(StopGuest(name=name, kill=args.kill, seconds=args.timeout))
    show_done(args, {"stopped": name}, f"guest {name} and its vTPM are gone")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """List the pairs, once or for as long as somebody looks."""
    if args.watch:
        return guest_watch.watch(Path(args.host), as_table, as_json=args.json)
    if args.ended:
        return run_list_ended(args)
    with BuilderClient(Path(args.host)) as builder:
        pairs = builder.guests()
    if args.names and not args.json:
        print("".join(f"{pair['guest']}\n" for pair in pairs), end="")
        return 0
    print(json.dumps(pairs, sort_keys=True) if args.json else as_table(pairs))
    return 0


def run_list_ended(args: argparse.Namespace) -> int:
    """List how the newest pair of each guest ended."""
    with BuilderClient(Path(args.host)) as builder:
        endings = builder.endings()
    print(json.dumps(endings, sort_keys=True) if args.json else endings_as_table(endings))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Show one pair and its launch."""
    name = checked_name(args.name, "guest")
    with BuilderClient(Path(args.host)) as builder:
        pairs = builder.guests(name)
    print(json.dumps(pairs, sort_keys=True) if args.json else as_text(pairs[0]))
    return 0


def as_table(pairs: Pairs) -> str:
    """Lay pairs out in columns."""
    if not pairs:
        return "no guest runs"
    rows = [("GUEST", "STATE", "LAUNCH", "PAIR", "VTPM", "QEMU", "UP")]
    rows += [
        (
            *(pair["guest"], pair["state"], str(pair["launch_number"]), pair["pair_id"][:12]),
            *(str(pair["vtpm_pid"]), str(pair["hypervisor_pid"])),
            f"{time.time() - pair['started_at']:.0f} s",
        )
        for pair in pairs
    ]
    return _in_columns(rows)


def endings_as_table(endings: Pairs) -> str:
    """Lay endings out in columns, the newest last."""
    if not endings:
        return "no guest has ended since the builder was started"
    rows = [("GUEST", "ENDED", "LAUNCH", "PAIR", "WHY")]
    rows += [
        (
            *(each["guest"], _clock(each["ended_at"])),
            *(str(each["launch_number"]), each["pair_id"][:12]),
            each["words"] + (f" [{each['code']}]" if each["code"] else ""),
        )
        for each in endings
    ]
    return _in_columns(rows)


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _in_columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_text(pair: dict[str, Any]) -> str:
    """Lay one pair out for a person: who it is, then its launch, event by event."""
    lines = [
        f"guest {pair['guest']}: {pair['state']}, launch {pair['launch_number']} of its vTPM",
        f"  pair        {pair['pair_id']}",
        f"  library     entry {pair['entry']} of {pair.get('library', '-')}",
        f"  vTPM        process {pair['vtpm_pid']}",
        f"  hypervisor  process {pair['hypervisor_pid']}, {pair['accelerator'] or '-'}",
    ]
    times = [f"{step} {value / 1000:.1f} ms" for step, value in pair["times"].items()]
    lines.append(f"  start       {', '.join(times) or '-'}")
    if pair.get("timeline"):
        lines.append("  time line:")
        lines += _timeline(pair["timeline"])
    if "launch" in pair:
        lines.append("  launch, measured before the guest's first instruction:")
        lines += [
            f"    PCR {event['register']}  {event['event']:<14} {_gist(event)}"
            for event in pair["launch"]["events"]
        ]
        registers = pair["launch"]["registers"].items()
        lines += [f"  PCR {index}  sha256:{value}" for index, value in registers]
    return "\n".join(lines)


def _timeline(timeline: list[dict[str, Any]]) -> list[str]:
    """Say when the pair met what, and how much later than what came before."""
    before, lines = timeline[0]["at"], []
    for met in timeline:
        at = datetime.fromtimestamp(met["at"], UTC).astimezone()
        later = met["at"] - before
        lines.append(
            f"    {at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}  {later:+9.3f} s  "
            f"{met['event']} -> {met['state']}"
        )
        before = met["at"]
    return lines


def _gist(event: dict[str, Any]) -> str:
    """Say the part of an event that tells it from another."""
    data = event["data"]
    names = [str(data[key]) for key in ("name", "version", "command_line") if key in data]
    if "sha256" in data:
        names.append(f"sha256:{data['sha256'][:32]}...")
    if "machine" in data:
        names.append(
            f"{data['machine']['type']}, {data['cpus']} cpu, {data['memory_mib']} MiB, "
            f"{data['accelerator']}"
        )
    return " ".join(names)


def _verb(
    verbs: Commands[argparse.ArgumentParser],
    name: str,
    run: object,
    words: str,
    metavar: str = "GUEST",  # of one that is there, so that a shell can complete it
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=words)
    parser.add_argument("name", metavar=metavar, help="the guest's name")
    add_json(parser)
    parser.set_defaults(run=run)
    return parser
