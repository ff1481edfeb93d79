"""Launch plan of a UEFI guest: what is measured of firmware, variables and disks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tandem.evidence.guest_entry import Disk, DiskKind, GuestEntry, Machine, UefiBoot
from tandem.evidence.launch import Blob, Tag, blob_event
from tandem.evidence.launch_plan import content_events, disk_event, machine_configuration
from tandem.evidence.manifest_file import ManifestFile

FILE = ManifestFile(path="f", size=1, sha256=bytes(32), sha384=bytes(48))
BOOT = UefiBoot(
    firmware=FILE,
    variables=FILE,
    keep_variables=False,
    secure_boot=True,
    kernel=None,
    initrd=None,
    command_line=None,
    roms=(FILE,),
)
IMAGE = Disk(id="system", kind=DiskKind.IMAGE, path="f", file=FILE, root_hash=None)
ENTRY = GuestEntry(
    name="web",
    hypervisor="qemu",
    group="default",
    ephemeral=False,
    boot=BOOT,
    disks=(IMAGE,),
    machine=Machine(type="q35", cpu="max", cpus=2, memory_mib=256),
)


def test_firmware_variables_and_disks_are_events() -> None:
    # Given a guest that boots from a disk
    # When its content events are made
    tags = [event.tag for event in content_events(ENTRY)]
    # Then each input has one, and what it is not given has none
    assert tags == [Tag.FIRMWARE, Tag.TABLES, Tag.DISK, Tag.VARIABLES]


def test_kept_variables_are_measured_as_found() -> None:
    # Given a store of variables that a guest wrote to
    found = Blob(size=2, sha256=b"\1" * 32, sha384=b"\1" * 48)
    # When the content events are made with it
    events = content_events(replace(ENTRY, boot=replace(BOOT, keep_variables=True)), found)
    # Then it is measured, and not what it was made from
    assert blob_event(Tag.VARIABLES, found) in events
    assert blob_event(Tag.VARIABLES, FILE.blob) not in events


@pytest.mark.parametrize(
    ("disk", "fields"),
    [
        (IMAGE, {"size": 1, "sha256": "00" * 32, "sha384": "00" * 48}),
        (
            Disk(id="a", kind=DiskKind.VERITY, path="f", file=None, root_hash=b"\1" * 32),
            {"root_hash": "01" * 32},
        ),
        (
            Disk(
                id="b", kind=DiskKind.FS_VERITY, path="f", file=None, root_hash=None,
                digest=b"\2" * 32,
            ),
            {"digest": "02" * 32},
        ),
        (
            Disk(id="c", kind=DiskKind.DATA, path="f", file=None, root_hash=None),
            {"content": "untrusted data"},
        ),
    ],
)  # fmt: skip
def test_a_disk_is_measured_by_what_vouches_for_it(disk: Disk, fields: dict[str, object]) -> None:
    # Given a disk of this kind
    # When its event is made
    measured = json.loads(disk_event(disk).data)
    # Then it says what vouches for the content, or that nothing does, and no path
    assert measured == {"id": disk.id, "kind": disk.kind.value, **fields}


def test_guarded_variables_need_system_management_mode() -> None:
    # Given entries with and without Secure Boot
    plain = replace(ENTRY, boot=replace(BOOT, secure_boot=False))
    # When their machines are configured
    machines = [machine_configuration(each, "tcg")["machine"] for each in (ENTRY, plain)]
    # Then System Management Mode is on for the first alone
    assert [each["options"]["smm"] for each in machines] == ["on", "off"]  # type: ignore[index]
