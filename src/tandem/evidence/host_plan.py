"""Host plan: what the launch of a host's own vTPM measures, as the builder and a verifier see it.

The host is not built from a library: it runs already, and its builder measures what it finds.  The
library's entry for the host holds the reference values, so the library itself is not measured, and
a new version of it moves no register that the host seals to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.evidence.launch import (
    Blob,
    LaunchEvent,
    Tag,
    blob_event,
    command_line_event,
    in_order,
    json_event,
)
from tandem.evidence.launch_plan import builder_event

HOST: Final = "host"  # the driver in a pair record, and the name of the host's own vTPM
CONFIGURATION_FORMAT: Final = "tandem-host-1"


@dataclass(frozen=True, kw_only=True)
class RunningHost:
    """What a builder finds on its host; None is what it cannot know."""

    release: str  # of the kernel that runs (uname)
    build_id: bytes  # the GNU build id that this kernel carries in memory
    command_line: str
    firmware: str | None  # what the firmware says of itself: vendor, version, date
    kernel: Blob | None  # the file that the boot loader should have loaded
    initrd: Blob | None


def host_events(
    version: str, digest: bytes, host: RunningHost, *, first_of_boot: bool
) -> tuple[LaunchEvent, ...]:
    """Make the events of a launch; `version` and `digest` are the builder's own."""
    files = ((Tag.KERNEL, host.kernel), (Tag.INITRD, host.initrd))
    events = [
        builder_event(version, digest),
        host_configuration_event(first_of_boot=first_of_boot),
        running_kernel_event(host.release, host.build_id),
        command_line_event(host.command_line),
        *(blob_event(tag, blob) for tag, blob in files if blob is not None),
    ]
    if host.firmware is not None:
        events.append(firmware_event(host.firmware))
    return in_order(events)


def host_configuration_event(*, first_of_boot: bool) -> LaunchEvent:
    """Make the event of the device: the first one of a boot, or one that took its place.

    Whoever starts the vTPM again under a running system takes PCR 0 to 16 back to zero, so that is
    measured: what was sealed to the first launch of a boot stays closed.
    """
    fields = {"device": "vtpm-proxy", "first_of_boot": first_of_boot, "localities": [0, 1]}
    return json_event(Tag.CONFIGURATION, {"format": CONFIGURATION_FORMAT, **fields})


def running_kernel_event(release: str, build_id: bytes) -> LaunchEvent:
    """Make the event of the kernel that runs; its file has an event of its own."""
    return json_event(Tag.KERNEL, {"build_id": build_id.hex(), "release": release})


def firmware_event(firmware: str) -> LaunchEvent:
    """Make the event of the firmware's name; what it is stands in the pTPM's registers alone."""
    return json_event(Tag.FIRMWARE, {"firmware": firmware})
