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
BROKER_UID: Final = UID_BASE + 1
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
    def approvals(self) -> Path:
        """Host states that were approved; nothing in them is secret."""
        return self.manager / "approvals"

    @property
    def clients_table(self) -> Path:
        """Which users, beside root, may ask the Manager what; written by the administrator."""
        return self.root / "manager-clients.toml"

    @property
    def vtpm(self) -> Path:
        """One directory for each persistent vTPM, with its state slots."""
        return self.root / "vtpm"

    @property
    def builder(self) -> Path:
        """The builder's journal."""
        return self.root / "builder"

    @property
    def host_vtpm(self) -> Path:
        """Settings of the host's own vTPM, where it is to have one (TOML)."""
        return self.root / "host-vtpm.toml"

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
    def broker_run(self) -> Path:
        """What the broker writes while it runs; the directory is its own user's."""
        return self.run / "broker"

    @property
    def broker_rights(self) -> Path:
        """Who may do what with the pTPM through the broker; written by the administrator."""
        return self.root / "broker.toml"

    @property
    def broker_socket(self) -> Path:
        """Where everybody else on the host reaches the pTPM, with raw TPM commands."""
        return self.run / "broker.sock"

    @property
    def broker_platform_socket(self) -> Path:
        """Where libtss2 looks for the platform of the TPM behind `broker_socket`."""
        return self.run / f"{self.broker_socket.name}.ctrl"

    @property
    def broker_metrics(self) -> Path:
        """What the broker counted, for `tandem host metrics`."""
        return self.broker_run / "metrics.json"

    @property
    def builder_socket(self) -> Path:
        """Where the command line reaches the builder."""
        return self.run / "builder.sock"
