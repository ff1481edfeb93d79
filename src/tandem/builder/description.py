"""What the builder says of a pair, or of the host's own vTPM: the objects that `--json` prints."""

from __future__ import annotations

import json

from tandem.builder.own_launch import RUNNING, OwnLaunch
from tandem.builder.pair import Pair
from tandem.errors import TandemError
from tandem.evidence.event_log import parse_event_log, parse_launch_log
from tandem.evidence.pcr_values import replay


def brief(pair: Pair) -> dict[str, object]:
    """Say which pair it is, where it stands and which processes it is."""
    entry = pair.entry
    return {
        "guest": entry.guest,
        "entry": entry.entry,
        "state": pair.state.value,
        "pair_id": entry.pair_id,
        "launch_number": entry.launch_number,
        "accelerator": entry.accelerator,
        "vtpm_pid": entry.vtpm_pid,
        "hypervisor_pid": entry.hypervisor_pid,
        "started_at": entry.started_at,
        "times": entry.times,
    }


def full(pair: Pair) -> dict[str, object]:
    """Add the launch: what was measured, and what PCR 17 and 18 hold because of it."""
    entry = pair.entry
    if not entry.launch_log:
        return brief(pair)
    return {
        **brief(pair),
        "library": entry.manifest,
        "ephemeral": entry.ephemeral,
        "timeline": [_met(line) for line in entry.timeline],
        "launch": measured(bytes.fromhex(entry.launch_log)),
    }


def _met(line: str) -> dict[str, object]:
    """Take a line of the time line apart; `at` is in seconds of Unix time."""
    at, event, state = line.split()
    return {"at": int(at) / 1000, "event": event, "state": state}


def own(launch: OwnLaunch | None, failure: TandemError | None) -> dict[str, object]:
    """Say where the host's own vTPM stands, what its newest launch was, and why none came since."""
    failed = {} if failure is None else {"failure": failure.as_record()}
    if launch is None:
        return {"state": "never started", **failed}
    running = launch.state == RUNNING
    return {
        "state": launch.state,
        "device": f"/dev/tpmrm{launch.device}" if running else "",
        "first_of_boot": launch.first_of_boot,
        "pair_id": launch.pair_id,
        "launch_number": launch.launch_number,
        "vtpm_pid": launch.vtpm_pid if running else 0,
        "started_at": launch.started_at,
        "launch": measured(bytes.fromhex(launch.launch_log)),
        **failed,
    }


def measured(log: bytes) -> dict[str, object]:
    """Say what a launch log holds, and what PCR 17 and 18 hold because of it."""
    values = replay(parse_event_log(log))
    registers = {
        bank: {str(index): value.hex() for index, value in found.items()}
        for bank, found in values.items()
    }
    events = [
        {
            "register": event.register,
            "event": event.tag.name.lower().replace("_", "-"),
            "data": json.loads(event.data),
        }
        for event in parse_launch_log(log)
    ]
    return {"registers": registers["sha256"], "banks": registers, "events": events}
