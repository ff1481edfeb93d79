"""Journal: what the builder must know of each pair to find it again after its own death.

One JSON file for each pair, replaced by rename before each action.  It is not synced: it names
processes, which no power loss survives, and `boot` tells an entry of an earlier boot from one whose
processes may live.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.builder.lifecycle import State
from tandem.errors import UntrustedInput
from tandem.evidence import record_fields
from tandem.hypervisor.process import ProcessName, boot_id

FORMAT: Final = "tandem-pair-1"
MAX_ENTRY: Final = 256 * 1024
PID_MOST: Final = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
STATES: Final = frozenset(state.value for state in State)
PAIR_ID: Final = re.compile("[0-9a-f]{32}")
HEXADECIMAL: Final = re.compile("(?:[0-9a-f]{2})*")
_HINT: Final = "the builder clears away what belongs to it"


@dataclass(frozen=True, kw_only=True)
class PairEntry:
    """One pair; a process that is not there yet has 0 for its PID."""

    format: str
    boot: str
    state: str
    guest: str
    entry: str
    manifest: str
    keys: tuple[str, ...]  # PEM, a character a byte; trusted for this library beside the host's
    pair_id: str  # hexadecimal; empty until the Manager opened the pair
    launch_number: int
    slot: int  # which user ids the pair's processes run as
    ephemeral: bool
    accelerator: str
    launch_log: str  # hexadecimal
    vtpm_pid: int
    vtpm_start_time: int
    hypervisor_pid: int
    hypervisor_start_time: int
    started_at: int  # Unix seconds
    times: dict[str, int]  # microseconds from the request to each step
    timeline: tuple[str, ...]  # the newest that it met: Unix milliseconds, event, state after it

    @property
    def vtpm(self) -> ProcessName:
        """The vTPM's process."""
        return ProcessName(pid=self.vtpm_pid, start_time=self.vtpm_start_time)

    @property
    def hypervisor(self) -> ProcessName:
        """The hypervisor's process."""
        return ProcessName(pid=self.hypervisor_pid, start_time=self.hypervisor_start_time)


class Journal:
    """The entries below one directory of the builder alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def store(self, entry: PairEntry) -> None:
        """Replace the entry of a pair, whole or not at all."""
        path = self._path(entry.pair_id)
        new = path.with_suffix(".new")
        try:
            new.write_text(json.dumps(dataclasses.asdict(entry)), encoding="ascii")
            os.replace(new, path)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def remove(self, pair_id: str) -> None:
        """Forget a pair that has ended."""
        self._path(pair_id).unlink(missing_ok=True)

    def entries(self) -> Iterator[tuple[str, PairEntry | None]]:
        """Give each pair id with its entry; None where it cannot be read or is of another boot."""
        boot = boot_id()
        for path in sorted(self._directory.glob("*.json")):
            try:
                entry = parse_entry(path.read_bytes()[:MAX_ENTRY])
            except (UntrustedInput, OSError):
                entry = None
            yield path.stem, entry if entry is not None and entry.boot == boot else None

    def _path(self, pair_id: str) -> Path:
        return self._directory / f"{pair_id}.json"


def parse_entry(data: bytes) -> PairEntry:
    """Read an entry, or refuse what a crash may have left of one."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise _refuse("is not JSON") from error
    if not isinstance(fields, dict):
        raise _refuse("is no object")
    entry = record_fields.from_map(PairEntry, fields, "journal entry")
    if entry.format != FORMAT:
        raise _refuse("is of another version")
    if entry.state not in STATES or not PAIR_ID.fullmatch(entry.pair_id):
        raise _refuse("names no state or no pair")
    if not HEXADECIMAL.fullmatch(entry.launch_log):
        raise _refuse("has no launch log")
    if not all(0 <= pid <= PID_MOST for pid in (entry.vtpm_pid, entry.hypervisor_pid)):
        raise _refuse("names no processes")
    return entry


def _refuse(problem: str) -> UntrustedInput:
    return UntrustedInput("TDM-JOURNAL-BAD", f"a journal entry {problem}", hint=_HINT, offset=0)
