"""Launch plan: what a manifest entry launches, as the builder runs it and the verifier expects it.

One source for both.  QEMU's command line is generated from `machine_configuration` and from
descriptors alone, so what is not in the configuration is not in the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal

from tandem.evidence.launch import (
    Blob,
    LaunchEvent,
    Tag,
    blob_event,
    canonical_json,
    command_line_event,
    in_order,
    json_event,
)
from tandem.evidence.manifest import GuestEntry

Accelerator = Literal["kvm", "tcg"]
ACCELERATORS: Final[tuple[Accelerator, ...]] = ("kvm", "tcg")
CONFIGURATION_FORMAT: Final = "tandem-machine-1"
ATTESTER_PORT: Final = "org.tandem.attester"  # /dev/virtio-ports/ in the guest
MACHINE_OPTIONS: Final = {
    "dump-guest-core": "off",
    "mem-merge": "off",
    "sata": "off",
    "smbus": "off",
    "smm": "off",
    "usb": "off",
    "vmport": "off",
}
GLOBALS: Final = {"ICH9-LPC.disable_s3": "1", "ICH9-LPC.disable_s4": "1"}
ACTIONS: Final = {
    "panic": "shutdown",
    "reboot": "shutdown",  # a reboot is a new pair
    "shutdown": "poweroff",
    "watchdog": "poweroff",
}
SANDBOX: Final = {  # QEMU's own system call filter
    "obsolete": "deny",
    "elevateprivileges": "deny",
    "spawn": "deny",
    "resourcecontrol": "deny",
}
DEVICES: Final = (
    {"driver": "isa-serial", "id": "console"},
    {"driver": "tpm-crb", "id": "tpm", "ppi": "off"},
    {"driver": "virtio-serial-pci", "id": "ports"},
    {"driver": "virtserialport", "id": "attester", "name": ATTESTER_PORT},
)


def machine_configuration(entry: GuestEntry, accelerator: Accelerator) -> dict[str, object]:
    """Give the complete configuration of the entry's machine, as JSON values."""
    return {
        "format": CONFIGURATION_FORMAT,
        "hypervisor": entry.hypervisor,
        "accelerator": accelerator,
        "machine": {"type": entry.machine.type, "options": dict(MACHINE_OPTIONS)},
        "cpu": entry.machine.cpu,
        "cpus": entry.machine.cpus,
        "memory_mib": entry.machine.memory_mib,
        "globals": dict(GLOBALS),
        "actions": dict(ACTIONS),
        "boot": "direct-kernel",
        "rtc": "utc",
        "devices": [dict(device) for device in DEVICES],
        "default_devices": False,
        "user_configuration": False,
        "network": [],
        "disks": [],
        "display": "none",
        "debugger": False,
        "monitor": "builder-qmp",
    }


def configuration_event(entry: GuestEntry, accelerator: Accelerator) -> LaunchEvent:
    """Make the event of the machine's configuration."""
    return json_event(Tag.CONFIGURATION, machine_configuration(entry, accelerator))


def builder_event(version: str, digest: bytes) -> LaunchEvent:
    """Make the builder's own event; `digest` is the SHA-256 over its installed source."""
    return json_event(Tag.BUILDER, {"name": "tandem", "sha256": digest.hex(), "version": version})


def hypervisor_event(name: str, version: str, blob: Blob) -> LaunchEvent:
    """Make the event of the hypervisor's executable."""
    fields = {"size": blob.size, "sha256": blob.sha256.hex(), "sha384": blob.sha384.hex()}
    return json_event(Tag.HYPERVISOR, {"name": name, "version": version, **fields})


def manifest_event(digest: bytes, version: int, key_ids: Sequence[str]) -> LaunchEvent:
    """Make the event of the library: payload digest, version, and the keys that signed it."""
    return json_event(
        Tag.MANIFEST,
        {"key_ids": sorted(key_ids), "sha256": digest.hex(), "version": version},
    )


def confinement() -> bytes:
    """Give what every QEMU is confined by, as canonical JSON."""
    return canonical_json({"hypervisor": "qemu", "sandbox": SANDBOX})


def policy_event() -> LaunchEvent:
    """Make the event of the confinement policy."""
    return json_event(Tag.POLICY, {"sha256": hashlib.sha256(confinement()).hexdigest()})


def content_events(entry: GuestEntry) -> list[LaunchEvent]:
    """Make the events of everything that the guest itself is loaded from, in extension order."""
    events = [
        blob_event(Tag.FIRMWARE, entry.firmware.blob),
        blob_event(Tag.KERNEL, entry.kernel.blob),
        command_line_event(entry.command_line),
        blob_event(Tag.INITRD, entry.initrd.blob),
        *(blob_event(Tag.TABLES, rom.blob) for rom in entry.roms),
    ]
    return list(in_order(events))
