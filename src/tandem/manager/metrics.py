"""What the Manager counts and measures: the declaration, and the answer to who asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from tandem.manager.clients import Client
from tandem.manager.room import Room
from tandem.manager.tcti import BUSY, command_name
from tandem.metrics import SECONDS, Kind, Metric, Metrics
from tandem.wire.manager_rpc import AskMetrics, HostStatus, MetricsPage

PAGE: Final = 3000
DECLARED: Final = (
    Metric(
        name="tandem_hardware_root",
        kind=Kind.GAUGE,
        help="1 where the pTPM is the machine's own, 0 where it is software.",
    ),
    Metric(name="tandem_pairs", kind=Kind.GAUGE, help="Pairs that are open."),
    Metric(
        name="tandem_manager_connections",
        kind=Kind.GAUGE,
        help="Connections that the Manager holds, those of vTPMs among them.",
    ),
    Metric(
        name="tandem_manager_refusals_total",
        kind=Kind.COUNTER,
        help="Requests that failed or were refused, by error code.",
    ),
    Metric(
        name="tandem_commits_total",
        kind=Kind.COUNTER,
        help="Commits of the store since the Manager's start.",
    ),
    Metric(
        name="tandem_nv_writes",
        kind=Kind.GAUGE,
        help="Writes of the pTPM's NV memory by the store's anchor since `host init`.",
    ),
    Metric(
        name="tandem_nv_write_budget",
        kind=Kind.GAUGE,
        help="Writes that the pTPM's NV memory may take in its life.",
    ),
    Metric(
        name="tandem_rollback_window_seconds",
        kind=Kind.GAUGE,
        help="Seconds of commits that an older store could undo; 0 is none.",
    ),
    Metric(
        name="tandem_deep_quotes_total",
        kind=Kind.COUNTER,
        help="Deep quotes answered since the Manager's start.",
    ),
    Metric(
        name="tandem_ptpm_quotes_total",
        kind=Kind.COUNTER,
        help="Quotes that the pTPM made for them.",
    ),
    Metric(
        name="tandem_deep_quote_batch",
        kind=Kind.HISTOGRAM,
        help="Deep quotes that shared one quote of the pTPM.",
        buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    ),
    Metric(
        name="tandem_ptpm_command_seconds",
        kind=Kind.HISTOGRAM,
        help="Time that the pTPM took for a command, by its name in the TPM 2.0 specification.",
        buckets=SECONDS,
    ),
    Metric(
        name="tandem_ptpm_busy_total",
        kind=Kind.COUNTER,
        help="Answers of the pTPM that it is busy, each followed by another try.",
    ),
    Metric(
        name="tandem_ptpm_errors_total",
        kind=Kind.COUNTER,
        help="Other commands that the pTPM did not carry out, by command.",
    ),
)


class ManagerMetrics(Metrics):
    """The Manager's metrics; `status` and `connections` are asked when somebody wants to know."""

    def __init__(self, status: Callable[[], HostStatus], connections: Callable[[], int]) -> None:
        super().__init__(DECLARED)
        self._status = status
        self._connections = connections
        self._told: WeakKeyDictionary[Client, bytes] = WeakKeyDictionary()

    def join(self, room: Room) -> None:
        """Answer questions for metrics in `room`."""
        room.on(AskMetrics, self._ask)

    def observe_command(self, code: int, response: int, seconds: float) -> None:
        """Count one command of the pTPM."""
        name = command_name(code)
        if response in BUSY:
            self.add("tandem_ptpm_busy_total", command=name)
            return
        self.observe("tandem_ptpm_command_seconds", seconds, command=name)
        if response:
            self.add("tandem_ptpm_errors_total", command=name)

    def observe_batch(self, size: int) -> None:
        """Count one quote of the pTPM and those who shared it."""
        self.observe("tandem_deep_quote_batch", size)

    def count_refusal(self, code: str) -> None:
        """Count a request that was not carried out."""
        self.add("tandem_manager_refusals_total", code=code)

    def _ask(self, client: Client, asked: AskMetrics) -> MetricsPage:
        if asked.offset == 0 or client not in self._told:
            self._told[client] = self._text()
        text = self._told[client]
        return MetricsPage(total=len(text), data=text[asked.offset : asked.offset + PAGE])

    def _text(self) -> bytes:
        status = self._status()
        for name, value in {
            "tandem_hardware_root": float(status.hardware_root),
            "tandem_pairs": status.open_pairs,
            "tandem_manager_connections": self._connections(),
            "tandem_commits_total": status.store_commits,
            "tandem_nv_writes": status.nv_writes,
            "tandem_nv_write_budget": status.nv_budget,
            "tandem_rollback_window_seconds": status.rollback_window,
            "tandem_deep_quotes_total": status.deep_quotes,
            "tandem_ptpm_quotes_total": status.ptpm_quotes,
        }.items():
            self.set(name, value)
        return json.dumps(self.as_records()).encode("ascii")
