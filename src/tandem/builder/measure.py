"""Launch measurement of a pair: inputs and identities to events, log, and register values.  Pure.

The verifier derives the same events from the manifest (`evidence.launch_plan`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.evidence.event_log import parse_event_log, write_launch_log
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.launch import Blob, LaunchEvent, Tag, in_order, json_event
from tandem.evidence.launch_plan import (
    Accelerator,
    builder_event,
    configuration_event,
    content_events,
    hypervisor_event,
    manifest_event,
)
from tandem.evidence.manifest import Manifest
from tandem.evidence.pcr_values import replay


@dataclass(frozen=True, kw_only=True)
class Builder:
    """What a launch measures of the builder itself."""

    version: str
    digest: bytes  # SHA-256 over its installed source


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The hypervisor as it will run."""

    name: str
    version: str
    blob: Blob
    accelerator: Accelerator
    policy: bytes  # its confinement, canonical JSON


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A launch as measured, before anything runs."""

    events: tuple[LaunchEvent, ...]  # in extension order
    log: bytes

    @property
    def log_digest(self) -> bytes:
        """What the pair record holds of it."""
        return hashlib.sha256(self.log).digest()

    @property
    def registers(self) -> dict[str, dict[int, bytes]]:
        """What PCR 17 and 18 will hold, by bank."""
        return replay(parse_event_log(self.log))


def measure(
    builder: Builder,
    hypervisor: Measured,
    manifest: Manifest,
    key_ids: Sequence[str],
    entry: GuestEntry,
    variables: Blob | None = None,
) -> Launch:
    """Make the events of a launch whose inputs equal their entries in the manifest.

    `variables` is the store of UEFI variables as it was found, where the guest has one.
    """
    events = in_order(
        [
            builder_event(builder.version, builder.digest),
            hypervisor_event(hypervisor.name, hypervisor.version, hypervisor.blob),
            configuration_event(entry, hypervisor.accelerator),
            json_event(Tag.POLICY, {"sha256": hashlib.sha256(hypervisor.policy).hexdigest()}),
            manifest_event(manifest.digest, manifest.version, key_ids),
            *content_events(entry, variables),
        ]
    )
    return Launch(events=events, log=write_launch_log(events))
