"""Launch plan: the same in the builder's hands and in the verifier's."""

from __future__ import annotations

import json

from tandem.evidence.guest_entry import DirectBoot, GuestEntry, Machine, PlatformAuth
from tandem.evidence.launch import Tag
from tandem.evidence.launch_plan import (
    configuration_event,
    confinement,
    content_events,
    machine_configuration,
)
from tandem.evidence.manifest_file import ManifestFile
from tandem.hypervisor import qemu_args

FILE = ManifestFile(path="f", size=1, sha256=bytes(32), sha384=bytes(48))
ENTRY = GuestEntry(
    name="web",
    hypervisor="qemu",
    group="default",
    ephemeral=False,
    boot=DirectBoot(
        kernel=FILE,
        initrd=FILE,
        firmware=FILE,
        roms=(FILE, FILE),
        command_line="quiet",
        platform_auth=PlatformAuth.FIRMWARE,
    ),
    disks=(),
    machine=Machine(type="q35", cpu="max", cpus=2, memory_mib=256),
)
NUMBERS = {name: 10 for name in qemu_args.Numbers.__dataclass_fields__ if name != "disks"}


def test_every_input_is_an_event_in_extension_order() -> None:
    # Given an entry with two ROMs
    # When its content events are made
    tags = [event.tag for event in content_events(ENTRY)]

    # Then each input has one
    content = [Tag.FIRMWARE, Tag.KERNEL, Tag.COMMAND_LINE, Tag.INITRD, Tag.TABLES, Tag.TABLES]
    assert tags == content


def test_the_configuration_event_holds_the_whole_configuration() -> None:
    # Given an entry
    # When its configuration is made as values and as an event
    values, event = machine_configuration(ENTRY, "kvm"), configuration_event(ENTRY, "kvm")

    # Then both say the same, and another accelerator is another event
    assert json.loads(event.data) == values
    assert event != configuration_event(ENTRY, "tcg")


def test_what_is_measured_as_confinement_is_what_qemu_gets() -> None:
    # Given the command line of a machine
    numbers = qemu_args.Numbers(**NUMBERS, disks={})
    arguments = qemu_args.arguments(machine_configuration(ENTRY, "kvm"), "", numbers)
    # When its confinement is measured
    measured = json.loads(confinement())["sandbox"]
    # Then that is what QEMU is told, and all of it
    sandbox = arguments[arguments.index("-sandbox") + 1].split(",")
    assert sorted(sandbox) == sorted(["on", *(f"{name}={word}" for name, word in measured.items())])
