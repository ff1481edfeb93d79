"""QEMU's events that say why a machine goes, as they come and as its monitor's log keeps them.

The log is what was said while no builder listened.  QEMU writes it, so it is read as hostile input:
bounded, and whatever is no event is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from tandem.hypervisor.driver import End

MAX_LOG: Final = 64 * 1024  # bytes at its end; a machine's last events are short
SHUTDOWNS: Final = {  # ShutdownCause of QEMU's QAPI schema
    "guest-shutdown": End.POWERED_OFF,
    "guest-reset": End.REBOOT,
    "guest-panic": End.PANICKED,
}
ENDS: Final = {"GUEST_PANICKED": End.PANICKED, "WATCHDOG": End.WATCHDOG, "SUSPEND": End.SLEPT}


def end_of_event(event: Mapping[str, object]) -> End:
    """Give why the machine goes, as far as this event says so."""
    data = event.get("data")
    reason = data.get("reason") if isinstance(data, Mapping) else None
    return ENDS.get(str(event.get("event"))) or SHUTDOWNS.get(str(reason), End.GONE)


def end_of_log(log: bytes) -> End:
    """Give why a machine went, from its monitor's log; the first event that says so is it."""
    for line in log[-MAX_LOG:].splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and "event" in event:
            end = end_of_event(event)
            if end is not End.GONE:
                return end
    return End.GONE
