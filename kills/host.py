"""A host of the campaign's own: its directory, its library, and the guests that it is to run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kills import payload
from tandem.errors import HostError
from tandem.settings import HostPaths

KEEPING, FLEETING = "persistent", "ephemeral"
GUESTS: Final[Mapping[str, str]] = {"first": KEEPING, "second": KEEPING, "third": FLEETING}
ENTRY: Final = """\
[entries.{name}]
kernel = "guest"
initrd = "nothing"
command_line = "{name}"
vtpm = "{vtpm}"
machine = {{ memory_mib = 16 }}

"""


class Host:
    """A directory with an embedded pTPM, a Manager and a signed library; nothing runs yet."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tandem-kills-", dir="/var/tmp"))
        self._directory.chmod(0o711)
        self.paths = HostPaths(self._directory / "host")

    def make(self) -> None:
        """Create its keys and its library."""
        key = self._directory / "library.key"
        self._tandem("host", "init", "--approval-key", self._directory / "approval.key")
        library = self.paths.library
        (library / "keys").mkdir(parents=True, exist_ok=True)
        shutil.copy(payload.kernel(), library / "guest")
        (library / "nothing").write_bytes(b"\n")  # an initrd has at least one byte
        entries = [ENTRY.format(name=name, vtpm=vtpm) for name, vtpm in GUESTS.items()]
        (library / "library.toml").write_text("".join(entries))
        self._tandem("library", "keygen", "-o", key)
        shutil.copy(f"{key}.pub", library / "keys")
        self._tandem("library", "sign", "--key", key)
        self.paths.run.mkdir(mode=0o711, exist_ok=True)

    def leftovers(self) -> set[str]:
        """Give the pairs that files name, in the builder's journal and below run/."""
        pairs = (self.paths.run / "pairs").glob("*")
        entries = (self.paths.builder / "pairs").glob("*.json")
        return {path.stem for path in (*pairs, *entries)}

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self._directory)

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._directory

    def _tandem(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "tandem", "--host", self.paths.root, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode != 0:
            raise HostError(
                "TDM-KILLS-NO-HOST",
                f"tandem {arguments[0]} {arguments[1]} failed: {done.stderr.strip()[-400:]}",
                hint="the tree must be whole: make check",
            )
