"""The recovery key between a person and a command: shown once, typed without echo."""

from __future__ import annotations

import getpass
import sys
from typing import Final

from tandem.errors import UsageError
from tandem.privileges import hide_memory
from tandem.values import Secret

MOST: Final = 1024  # characters; a key has 63


def recovery_text(key: str) -> str:
    """Show a recovery key."""
    return f"recovery key, shown this once; write it down and keep it off this host:\n  {key}"


def ask_recovery_key() -> Secret:
    """Read the recovery key: from a terminal without echo, else one line of standard input."""
    from tandem.manager.recovery import read  # a verifier's machine has no pTPM libraries

    hide_memory()
    if sys.stdin.isatty():
        text = getpass.getpass("recovery key (not shown): ")
    else:
        text = sys.stdin.readline(MOST)
    if not text.strip():
        raise UsageError(
            "TDM-RECOVERY-KEY-MISSING",
            "no recovery key was given",
            hint="type it at the prompt, or give it as the first line of standard input",
        )
    return read(text.strip())
