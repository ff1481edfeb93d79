"""`tandem guest debug`: gdb's remote protocol of a guest, on standard input and output."""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
from pathlib import Path
from typing import Final

from tandem.cli.builder_client import BuilderClient
from tandem.errors import UsageError
from tandem.values import checked_name
from tandem.wire.builder_rpc import AttachDebugger

BLOCK: Final = 64 * 1024


def run(args: argparse.Namespace) -> int:
    """Connect gdb, which starts this command itself, to the guest's debugger."""
    name = checked_name(args.name, "guest")
    if sys.stdin.isatty():
        raise UsageError(
            "TDM-DEBUG-NO-GDB",
            "this command is for gdb to start, not for a terminal",
            hint=f"in gdb: target remote | sudo tandem guest debug {name}",
        )
    with BuilderClient(Path(args.host)) as builder:
        debugger = builder.attach(AttachDebugger(name=name))
    with debugger:
        _relay(debugger, sys.stdin.fileno(), sys.stdout.fileno())
    return 0


def _relay(debugger: socket.socket, asked: int, answered: int) -> None:
    """Pass bytes both ways until gdb or the guest ends."""
    while True:
        ready, _, _ = select.select([debugger.fileno(), asked], [], [])
        if debugger.fileno() in ready:
            if not (answer := debugger.recv(BLOCK)):
                return
            os.write(answered, answer)
        if asked in ready:
            if not (request := os.read(asked, BLOCK)):
                return
            debugger.sendall(request)
