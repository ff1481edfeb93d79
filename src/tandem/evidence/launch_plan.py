"""Launch plan: what a manifest entry launches, as the builder runs it and the verifier expects it.

One source for both.  QEMU's command line is generated from `machine_configuration` and from
descriptors alone, so what is not in the configuration is not in the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal

from tandem.evidence.guest_entry import DirectBoot, Disk, GuestEntry, PlatformAuth, UefiBoot
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
    {"driver": "pvpanic", "id": "panic"},
    {"driver": "i6300esb", "id": "watchdog"},
    {"driver": "virtio-serial-pci", "id": "ports"},
    {"driver": "virtserialport", "id": "attester", "name": ATTESTER_PORT},
)


def machine_configuration(entry: GuestEntry, accelerator: Accelerator) -> dict[str, object]:
    """Give the complete configuration of the entry's machine, as JSON values."""
    return {
        "format": CONFIGURATION_FORMAT,
        "hypervisor": entry.hypervisor,
        "accelerator": accelerator,
        "machine": {
            "type": entry.machine.type,
            "options": {**MACHINE_OPTIONS, **_flash_options(entry.boot)},
        },
        "cpu": entry.machine.cpu,
        "cpus": entry.machine.cpus,
        "memory_mib": entry.machine.memory_mib,
        "globals": dict(GLOBALS),
        "actions": dict(ACTIONS),
        "boot": _boot(entry.boot),
        "rtc": "utc",
        "vtpm": {"lockout_auth": entry.lockout_auth.value, "platform_auth": _platform_auth(entry)},
        "devices": [dict(device) for device in DEVICES],
        "default_devices": False,
        "user_configuration": False,
        "network": [],
        "disks": [
            {"id": disk.id, "kind": disk.kind.value, "read_only": disk.read_only}
            for disk in entry.disks
        ],
        "display": "none",
        "debugger": entry.debugger,
        "monitor": "builder-qmp",
    }


def _boot(boot: DirectBoot | UefiBoot) -> dict[str, object]:
    """Say how the machine boots, and which parts it is given."""
    if isinstance(boot, DirectBoot):
        return {"method": "direct", "kernel": True, "initrd": True, "command_line": True}
    return {
        "method": "uefi",
        "secure_boot": boot.secure_boot,
        "variables": "kept" if boot.keep_variables else "fresh",
        "kernel": boot.kernel is not None,
        "initrd": boot.initrd is not None,
        "command_line": boot.command_line is not None,
    }


def _platform_auth(entry: GuestEntry) -> str:
    """Say who sets platformAuth; OVMF always does."""
    by = entry.boot.platform_auth if isinstance(entry.boot, DirectBoot) else PlatformAuth.FIRMWARE
    return by.value


def _flash_options(boot: DirectBoot | UefiBoot) -> dict[str, str]:
    """Give what the machine needs for firmware in flash; only SMM may write guarded variables."""
    if isinstance(boot, DirectBoot):
        return {}
    return {"pflash0": "code", "pflash1": "variables", "smm": "on" if boot.secure_boot else "off"}


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


def content_events(entry: GuestEntry, variables: Blob | None = None) -> list[LaunchEvent]:
    """Make the events of everything that the guest itself is loaded from, in extension order.

    `variables` is a kept variable store as it was found; else each launch has the entry's own.
    """
    boot = entry.boot
    events = [
        blob_event(Tag.FIRMWARE, boot.firmware.blob),
        *(blob_event(Tag.TABLES, rom.blob) for rom in boot.roms),
        *(disk_event(disk) for disk in entry.disks),
    ]
    if isinstance(boot, UefiBoot):
        events.append(blob_event(Tag.VARIABLES, variables or boot.variables.blob))
    if boot.kernel is not None:
        events.append(blob_event(Tag.KERNEL, boot.kernel.blob))
    if boot.command_line is not None:
        events.append(command_line_event(boot.command_line))
    if boot.initrd is not None:
        events.append(blob_event(Tag.INITRD, boot.initrd.blob))
    return list(in_order(events))


def disk_event(disk: Disk) -> LaunchEvent:
    """Make the event of a disk: what vouches for its content, or that nothing does."""
    fields: dict[str, object] = {"id": disk.id, "kind": disk.kind.value}
    if disk.file is not None:
        blob = disk.file.blob
        fields |= {"size": blob.size, "sha256": blob.sha256.hex(), "sha384": blob.sha384.hex()}
    elif disk.root_hash is not None:
        fields["root_hash"] = disk.root_hash.hex()
    elif disk.digest is not None:
        fields["digest"] = disk.digest.hex()
    else:
        fields["content"] = "untrusted data"
    return json_event(Tag.DISK, fields)
