"""What each step of the demonstration needs: run a command, show what it did, stop on surprise."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peers.console import Console
from tandem.cli.guest import connect_console
from tandem.errors import Refused

ENDED_SECONDS: Final = 5.0


class Surprise(Exception):
    """The demonstration saw something else than it is here to show."""


@dataclass(kw_only=True)
class Stage:
    """Where the demonstration plays, and the lines it has printed."""

    host: Path
    work: Path
    image: Path

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Print a step's title, then its result; the result is what the block says."""
        interactive = sys.stdout.isatty()
        if interactive:
            print(f"  ..  {title}", end="", flush=True)
        said: list[str] = []
        begun = time.monotonic()
        yield said.append
        start = "\r" if interactive else ""
        seconds = time.monotonic() - begun
        print(f"{start}  ok  {title}: {'; '.join(said)} ({seconds:.1f} s)", flush=True)

    def command(self) -> str:
        """Give the command that reaches this host, as a shell would take it."""
        return shlex.join(self._command())

    def tandem(
        self, *arguments: str | Path, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a `tandem` command as a user would; another status than expected is a surprise."""
        words = [str(argument) for argument in arguments]
        done = subprocess.run(
            [*self._command(), *words], capture_output=True, text=True, check=False
        )
        if expect is not None and done.returncode != expect:
            printed = done.stdout[-2000:] + done.stderr[-2000:]
            raise Surprise(f"`tandem {shlex.join(words)}` ended with {done.returncode}:\n{printed}")
        return done

    def ask(self, *arguments: str | Path, expect: int | None = 0) -> Any:
        """Run a `tandem` command with --json and give what it printed."""
        return json.loads(self.tandem(*arguments, "--json", expect=expect).stdout)

    def refusal(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a command that must be refused (exit status 5) and give the refusal's record."""
        done = self.tandem(*arguments, "--json", expect=Refused.exit_status)
        record: dict[str, Any] = json.loads(done.stderr)
        return record

    def trust_key(self, public_key: Path) -> None:
        """Let the host accept libraries signed with this key."""
        keys = self.host / "library" / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        shutil.copy(public_key, keys)

    def wait_until_ended(self, guest: str) -> None:
        """Wait until the builder, too, has seen the pair end."""
        deadline = time.monotonic() + ENDED_SECONDS
        while any(pair["guest"] == guest for pair in self.ask("guest", "list")):
            if time.monotonic() > deadline:
                raise Surprise(f"the pair of {guest} still stands in the list")

    def console(self, guest: str) -> Console:
        """Connect to a guest's serial console."""
        return Console(connect_console(self.host, guest))

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tandem", "--host", str(self.host)]
