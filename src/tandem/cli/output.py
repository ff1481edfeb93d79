"""What commands share: files read and written whole, errors shown, exit statuses."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tandem.appraisal.verdict import Tier
from tandem.errors import HostError, TandemError, UntrustedInput, UsageError
from tandem.files import open_at_once

EXIT_STATUS: Final = {
    Tier.AFFIRMING: 0,
    Tier.WARNING: 10,
    Tier.CONTRAINDICATED: 11,
    Tier.NONE: 12,
}
INTERRUPTED: Final = 130
MAX_READ: Final = 256 * 1024 * 1024  # bytes of a file that a user names: larger is none of ours
MAX_SHOWN: Final = 200  # characters of what the user gave, in a message
MAX_SECONDS: Final = 24 * 60 * 60
STANDARD: Final = "-"  # standard input or output, in place of a path
PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def show_error(error: TandemError, *, as_json: bool) -> None:
    """Print what went wrong and what to do about it on standard error."""
    if as_json:
        print(json.dumps(error.as_record(), sort_keys=True), file=sys.stderr)
    else:
        print(f"tandem: {error}\n  hint: {error.hint}", file=sys.stderr)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def show_done(args: argparse.Namespace, record: Mapping[str, object], text: str) -> None:
    """Print what was done, as JSON where that was asked for."""
    print(json.dumps(record, sort_keys=True) if args.json else text)


def read_file(path: str, what: str) -> bytes:
    """Read a file that the user named, of at most MAX_READ bytes; `-` is standard input."""
    try:
        if path == STANDARD:
            data = sys.stdin.buffer.read(MAX_READ + 1)
        else:
            with open(path, "rb", opener=open_at_once) as file:
                data = file.read(MAX_READ + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise HostError(
            "TDM-CLI-FILE-UNREADABLE",
            f"cannot read {what} {path[:MAX_SHOWN]!a}: {getattr(error, 'strerror', error)}",
            hint="check the path and its permissions",
        ) from error
    if len(data) > MAX_READ:
        raise UntrustedInput(
            "TDM-CLI-FILE-TOO-LARGE",
            f"{what} {path[:MAX_SHOWN]!a} has more than {MAX_READ >> 20} MiB",
            hint="give the file of the kind asked for",
            offset=MAX_READ,
        )
    return data


def shown_path(path: Path) -> str:
    """Give a path as a message shows it: whole, on one line, whatever is in its name."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def write_file(path: str, data: bytes, what: str, mode: int = PUBLIC) -> None:
    """Write a file whole or not at all; `-` is standard output."""
    if path == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        if _is_special(Path(path)):
            Path(path).write_bytes(data)
        else:
            _replace(Path(path), data, mode)
    except OSError as error:
        raise HostError(
            "TDM-CLI-FILE-NOT-WRITTEN",
            f"cannot write {what} {path}: {error.strerror}",
            hint="check the directory, its permissions and the space left",
        ) from error


def create_file(path: str, data: bytes, what: str, mode: int = PUBLIC) -> None:
    """Write a file that must not be there yet."""
    if os.path.exists(path):  # Path.exists would raise where it may not look
        raise UsageError(
            "TDM-CLI-FILE-EXISTS",
            f"{what} {path} is there already",
            hint="name another file, or remove this one if nothing needs it",
        )
    write_file(path, data, what, mode)


def seconds(text: str) -> int:
    """Read a time to wait, for argparse."""
    if not text.isdecimal() or not text.isascii() or int(text[:9]) > MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text[:MAX_SHOWN]!a} is not a number of seconds up to {MAX_SECONDS}"
        )
    return int(text)


def hexadecimal(text: str, what: str) -> bytes:
    """Read bytes that the user gave in hexadecimal."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(
            "TDM-CLI-NOT-HEX",
            f"{what} {text[:80]!a} is not hexadecimal",
            hint="give an even number of digits 0-9 and a-f",
        ) from None


def _is_special(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket: written to, and never replaced by a file."""
    return path.exists() and not path.is_file()


def _replace(path: Path, data: bytes, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:  # an interrupt, too, leaves nothing half-made behind
        Path(temporary).unlink(missing_ok=True)
        raise
