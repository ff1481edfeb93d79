"""What the builder says of a pair: the objects that `guest list --json` and `show --json` print."""

from __future__ import annotations

import json

from tandem.builder.pair import Pair
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
    log = bytes.fromhex(entry.launch_log)
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
    launch = {"registers": registers["sha256"], "banks": registers, "events": events}
    return {
        **brief(pair),
        "library": entry.manifest,
        "ephemeral": entry.ephemeral,
        "launch": launch,
    }
