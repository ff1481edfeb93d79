"""`tandem guest console`: a guest's serial console in this terminal."""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tandem.cli.builder_client import BuilderClient
from tandem.cli.output import read_file
from tandem.errors import UsageError
from tandem.settings import HostPaths
from tandem.values import checked_name
from tandem.wire.builder_rpc import AttachConsole

LEAVE: Final = b"\x1d"  # Ctrl-]
BLOCK: Final = 64 * 1024


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the command's own arguments."""
    parser.add_argument("--log", action="store_true", help="print what it showed up to now")


def run(args: argparse.Namespace) -> int:
    """Connect, or print the log."""
    name = checked_name(args.name, "guest")
    with BuilderClient(Path(args.host)) as builder:
        if args.log:
            [pair] = builder.guests(name)
            log = HostPaths(Path(args.host)).run / "pairs" / pair["pair_id"] / "console.log"
            sys.stdout.buffer.write(read_file(str(log), "console log"))
            return 0
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(
                "TDM-CONSOLE-NO-TERMINAL",
                "the console needs a terminal",
                hint="use --log to print what the guest showed",
            )
        console = builder.attach(AttachConsole(name=name))
    print(f"connected to {name}; Ctrl-] leaves", file=sys.stderr)
    with console, _raw(sys.stdin.fileno()):
        left = _relay(console, sys.stdin.fileno(), sys.stdout.fileno())
    print(f"\nleft {name}" if left else f"\n{name} is gone", file=sys.stderr)
    return 0


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Pass every key on, and give the terminal back as it was."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _relay(console: socket.socket, keys: int, screen: int) -> bool:
    """Pass bytes both ways until the user leaves (True) or the guest ends (False)."""
    while True:
        ready, _, _ = select.select([console.fileno(), keys], [], [])
        if console.fileno() in ready:
            shown = console.recv(BLOCK)
            if not shown:
                return False
            os.write(screen, shown)
        if keys in ready:
            typed = os.read(keys, BLOCK)
            before, leave, _ = typed.partition(LEAVE)
            console.sendall(before)
            if leave or not typed:
                return True
