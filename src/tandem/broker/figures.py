"""What the broker counts: commands, refusals by the rule of their command, connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tandem.metrics import Kind, Metric, Metrics
from tandem.wire.tpm_commands import HEADER
from tandem.wire.tpm_table import TABLE

EVERY_SECONDS: Final = 5.0  # the file is written at most so often
REFUSED: Final = 0x000B0000  # layer of a resource manager's response codes (TSS 2.0 overview, 3.4)
UNKNOWN: Final = "unknown"
CLIENTS: Final = "tandem_broker_clients"
COMMANDS: Final = "tandem_broker_commands_total"
REFUSALS: Final = "tandem_broker_refusals_total"
DECLARED: Final = (
    Metric(name=CLIENTS, kind=Kind.GAUGE, help="Connections to the broker."),
    Metric(name=COMMANDS, kind=Kind.COUNTER, help="TPM commands answered."),
    Metric(name=REFUSALS, kind=Kind.COUNTER, help="TPM commands refused, by the table's rule."),
)


class Figures:
    """Counts, and the file that `tandem host metrics` reads them from."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now
        self._commands: Counter[int] = Counter()
        self._refusals: Counter[str] = Counter()
        self._clients = 0
        self._written = -EVERY_SECONDS
        self._changed = True

    def answered(self, command: bytes, response: bytes) -> None:
        """Count a command with what became of it."""
        _, _, code = HEADER.unpack_from(command)
        self._commands[code if code in TABLE else 0] += 1
        if int.from_bytes(response[6:10]) & REFUSED:
            self._refusals[TABLE[code].rule.value if code in TABLE else UNKNOWN] += 1
        self._changed = True

    def connected(self, clients: int) -> None:
        """Take note of how many connections there are."""
        self._clients = clients
        self._changed = True

    def write_when_due(self) -> float | None:
        """Write the file where it is due; gives the seconds until it is, None where it is not."""
        if not self._changed:
            return None
        left = self._written + EVERY_SECONDS - self._now()
        if left > 0:
            return left
        self.write()
        return None

    def write(self) -> None:
        """Write the file; a full disk costs the figures and nothing else."""
        metrics = Metrics(DECLARED)
        metrics.set(CLIENTS, self._clients)
        for code, count in self._commands.items():
            metrics.set(COMMANDS, count, command=TABLE[code].name if code else UNKNOWN)
        for rule, count in self._refusals.items():
            metrics.set(REFUSALS, count, rule=rule)
        self._written, self._changed = self._now(), False
        try:
            metrics.write(self._path)
        except OSError:
            return
