"""Where a host keeps what, and who runs as whom; stated here once.

Everything of a host is below one directory (`--host`, or TANDEM_HOST).  Each process runs as a
numeric user of its own: no accounts are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_HOST: Final = Path("/var/lib/tandem")
HOST_VARIABLE: Final = "TANDEM_HOST"
UID_BASE: Final = 0x54440000  # "TD"; the Manager's user, vTPMs and hypervisors follow
DEFAULT_PCRS: Final = (8, 9)  # where the Manager measures a host that has the embedded pTPM


@dataclass(frozen=True)
class HostPaths:
    """The files and directories of one host."""

    root: Path

    @property
    def ptpm(self) -> Path:
        """State of the embedded pTPM, where there is no hardware one."""
        return self.root / "ptpm"

    @property
    def ptpm_log(self) -> Path:
        """What the embedded pTPM printed since its newest start."""
        return self.run / "swtpm.log"

    @property
    def manager(self) -> Path:
        """The Manager's keys and store."""
        return self.root / "manager"

    @property
    def identity(self) -> Path:
        """What `tandem host init` writes last: with it the host is made."""
        return self.manager / "identity.cbor"

    @property
    def vtpm(self) -> Path:
        """One directory for each persistent vTPM, with its state slots."""
        return self.root / "vtpm"

    @property
    def builder(self) -> Path:
        """The builder's journal."""
        return self.root / "builder"

    @property
    def library(self) -> Path:
        """The host's own library of domains, and the keys that it trusts."""
        return self.root / "library"

    @property
    def run(self) -> Path:
        """Sockets, logs and process ids; nothing here outlives a boot."""
        return self.root / "run"

    @property
    def manager_socket(self) -> Path:
        """Where builder and command line reach the Manager."""
        return self.run / "manager.sock"

    @property
    def builder_socket(self) -> Path:
        """Where the command line reaches the builder."""
        return self.run / "builder.sock"
