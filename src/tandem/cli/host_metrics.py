"""`tandem host metrics`: what Manager and broker count, as Prometheus reads it, or as JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tandem.cli.manager_client import ManagerClient
from tandem.errors import HostError
from tandem.metrics import parse_records, prometheus_text
from tandem.settings import HostPaths


def run_metrics(args: argparse.Namespace) -> int:
    """Print the metrics; the broker's too, where it has run since the host's start."""
    with ManagerClient(args.host) as manager:
        records = parse_records(manager.metrics(), "the Manager's metrics")
    records += _brokers(HostPaths(args.host))
    print(json.dumps(records) if args.json else prometheus_text(records), end="")
    if args.json:
        print()
    return 0


def _brokers(paths: HostPaths) -> list[dict[str, Any]]:
    """Read the broker's file; it is the file of a process that parses hostile input."""
    try:
        content = paths.broker_metrics.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(
            "TDM-BROKER-METRICS",
            f"cannot read {paths.broker_metrics}: {error.strerror}",
            hint="ask as root, or as a user who can read the broker's file",
        ) from error
    return parse_records(content, "the broker's metrics")
