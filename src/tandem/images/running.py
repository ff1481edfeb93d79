"""Programs that make images: run to their end, their words kept for the error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Final

from tandem.errors import HostError

SHOWN: Final = 400  # characters of what a program said last
Telling = Callable[[str], object]
PACKAGE_OF: Final = {
    "unshare": "util-linux",
    "chroot": "coreutils",
    "dpkg-query": "dpkg",
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "veritysetup": "cryptsetup-bin",
}


def require_programs() -> None:
    """Refuse to begin where a program is missing: it would be missed minutes later."""
    for program in PACKAGE_OF:
        if shutil.which(program) is None:
            raise _missing(program, "it is not there")


def run(
    *command: str, environment: Mapping[str, str] | None = None, tell: Telling | None = None
) -> str:
    """Run a program and give what it printed; each line of it is told at once where wanted."""
    lines: list[str] = []
    try:
        with subprocess.Popen(  # noqa: S603 - programs of Debian, arguments as a list
            command,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                lines.append(line)
                if tell is not None:
                    tell(line.rstrip())
    except OSError as error:
        raise _missing(command[0], error.strerror or "") from error
    said = "".join(lines)
    if process.returncode != 0:
        raise HostError(
            "TDM-IMAGE-FAILED",
            f"{command[0]} ended with status {process.returncode}: {said[-SHOWN:].strip()!a}",
            hint="see what it says; the network, the space left and names of packages matter most",
        )
    return said


def _missing(program: str, problem: str) -> HostError:
    return HostError(
        "TDM-IMAGE-NO-PROGRAM",
        f"cannot run {program}: {problem}",
        hint=f"install Debian's package {PACKAGE_OF.get(program, program)}",
    )
