"""Files that are none: each command that reads a file says so at once, and nothing is made of it.

Every file argument meets every kind of thing that a path can name.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tandem.cli.main import main

TERABYTE: Final = 1 << 40
SECONDS: Final = 8.0
NONCE: Final = "5a" * 32


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(TERABYTE)


def symlink_loop(path: Path) -> None:
    path.symlink_to(path.name)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def newline_name(path: Path) -> None:
    path.write_bytes(b"?")


THINGS: Final[dict[str, tuple[str, Callable[[Path], object]]]] = {
    "missing": ("missing", lambda path: None),
    "directory": ("directory", Path.mkdir),
    "pipe without a writer": ("pipe", os.mkfifo),
    "endless device": ("zero", lambda path: path.symlink_to("/dev/zero")),
    "empty device": ("null", lambda path: path.symlink_to("/dev/null")),
    "sparse terabyte": ("sparse", sparse),
    "symlink to itself": ("loop", symlink_loop),
    "bytes that are nothing": ("binary", binary),
    "newline in the name": ("two\nlines", newline_name),
    "name that is too long": ("n" * 300, lambda path: None),
}
COMMANDS: Final = {
    "verify evidence": ("verify", "{}", "--policy", "{policy}", "--nonce", NONCE),
    "verify policy": ("verify", "{empty}", "--policy", "{}", "--nonce", NONCE),
    "policy check": ("policy", "check", "{}"),
    "policy new anchor": (
        *("policy", "new", "--anchor", "{}", "--anchor-key", "{empty}", "--manifest", "{empty}"),
        *("--manifest-key", "{empty}", "--entry", "web", "--guest", "web", "-o", "{out}"),
    ),
    "verifier challenge": (*("verifier", "challenge", "{}", "-o", "{out}", "--secret", "{out2}"),),
    "verifier enroll export": ("verifier", "enroll", "{}", "--key", "{key}", "-o", "{out}"),
    "verifier enroll key": ("verifier", "enroll", "{empty}", "--key", "{}", "-o", "{out}"),
    "library sign source": ("library", "sign", "{}", "--key", "{key}"),
    "library sign key": ("library", "sign", "{source}", "--key", "{}"),
    "library verify": ("library", "verify", "{}", "--library-key", "{key}.pub"),
    "library key": ("library", "verify", "{empty}", "--library-key", "{}"),
    "broker check": ("broker", "check", "{}"),
    "guest start key": ("guest", "start", "web", "--library-key", "{}"),
    "host approve": ("host", "approve", "--key", "{}"),
    "host restore": ("host", "restore", "{}"),
}


VALID: Final = {  # an empty table of rights is one that gives none
    ("broker check", "empty device"),
    ("broker check", "pipe without a writer"),
}


@pytest.fixture
def limits() -> Iterator[None]:
    """Let no command take minutes, or a terabyte of memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Give what the other arguments of a command name: files of the right kind, or empty ones."""
    (tmp_path / "empty").touch()
    (tmp_path / "source.toml").touch()
    key = tmp_path / "signing.key"
    assert main(["library", "keygen", "-o", str(key)]) == 0
    capsys.readouterr()
    names = {"empty": "empty", "key": "signing.key", "source": "source.toml", "policy": "empty"}
    made = {name: str(tmp_path / file) for name, file in names.items()}
    return made | {each: str(tmp_path / each) for each in ("out", "out2")}


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("command", "thing"),
    [(command, thing) for command in COMMANDS for thing in THINGS if (command, thing) not in VALID],
)
def test_a_file_that_is_none_is_refused_at_once(
    command: str,
    thing: str,
    files: dict[str, str],
    tmp_path: Path,
    limits: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Given something that is no file of the kind asked for
    name, make = THINGS[thing]
    path = tmp_path / name
    make(path)
    before = sorted(each.name for each in tmp_path.iterdir())
    words = [word.format(str(path), **files) for word in COMMANDS[command]]
    # When a command is given it
    begun = time.monotonic()
    status = main(["--host", str(tmp_path / "host"), *words, "--json"])
    # Then there is one message, on one line, with a code and what to do, soon, and nothing made
    shown = capsys.readouterr()
    verdict = command.startswith("verify") and status in (11, 12)
    if not verdict:
        record = json.loads(shown.err)
        assert record["code"].startswith("TDM-")
        assert record["problem"]
        assert record["hint"]
        assert "\n" not in record["problem"]
        assert status in (2, 3, 4, 5)
    assert shown.err.count("\n") <= 1
    assert time.monotonic() - begun < SECONDS
    assert sorted(each.name for each in tmp_path.iterdir()) == before
