"""The launch of the host's own vTPM, as the builder must know it to find it again.

One JSON file, replaced by rename.  It stays when the vTPM has ended: by it a later launch knows
that it is not the first one of this boot.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.errors import HostError, UntrustedInput
from tandem.evidence import record_fields
from tandem.hypervisor.process import ProcessName

FORMAT: Final = "tandem-host-vtpm-1"
MAX_ENTRY: Final = 256 * 1024
STARTING: Final = "starting"
RUNNING: Final = "running"
ENDED: Final = "ended"
FAILED: Final = "failed"  # nobody but the kernel ever had the device


@dataclass(frozen=True, kw_only=True)
class OwnLaunch:
    """One launch; `boot` is the kernel's name of the boot that it belongs to."""

    format: str
    boot: str
    first_of_boot: bool
    state: str
    pair_id: str  # hexadecimal
    launch_number: int
    launch_log: str  # hexadecimal
    device: int  # N of /dev/tpmN and /dev/tpmrmN
    vtpm_pid: int
    vtpm_start_time: int
    started_at: int  # Unix seconds

    @property
    def vtpm(self) -> ProcessName:
        """The vTPM's process."""
        return ProcessName(pid=self.vtpm_pid, start_time=self.vtpm_start_time)

    def leaves_first(self, boot: str) -> bool:
        """Whether a launch in `boot` that follows this one is the first of it, all the same."""
        return self.boot != boot or (self.state == FAILED and self.first_of_boot)


class OwnJournal:
    """The newest launch, in a file of the builder's alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def store(self, launch: OwnLaunch) -> None:
        """Replace what is known, whole or not at all."""
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(dataclasses.asdict(launch)), encoding="ascii")
            os.replace(new, self._path)
        except OSError as error:
            raise HostError(
                "TDM-JOURNAL-UNWRITABLE",
                f"cannot write the builder's journal: {error.strerror}",
                hint="free space below the host directory",
            ) from error

    def newest(self) -> OwnLaunch | None:
        """Give the newest launch; None where there was none, or a power loss left half of it."""
        try:
            return parse_launch(self._path.read_bytes()[:MAX_ENTRY])
        except (FileNotFoundError, UntrustedInput):
            return None


def parse_launch(data: bytes) -> OwnLaunch:
    """Read an entry, or refuse what a crash may have left of one."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise _refuse("is not JSON") from error
    if not isinstance(fields, dict):
        raise _refuse("is no object")
    launch = record_fields.from_map(OwnLaunch, fields, "host vTPM journal")
    if launch.format != FORMAT:
        raise _refuse("is of another version")
    return launch


def _refuse(problem: str) -> UntrustedInput:
    hint = "the builder takes it for none"
    return UntrustedInput(
        "TDM-JOURNAL-BAD", f"the host vTPM's journal {problem}", hint=hint, offset=0
    )
