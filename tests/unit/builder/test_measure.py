"""Launch measurement: which event goes where, and what the registers will hold."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from tandem.builder.library import Library, guest_entry, open_library
from tandem.builder.measure import Builder, Launch, Measured, measure
from tandem.evidence.event_log import parse_launch_log
from tandem.evidence.guest_entry import Disk, DiskKind, GuestEntry
from tandem.evidence.launch import Blob, Tag
from tests.unit.builder.signing import guest, new_key, sign, trust, write_files

BUILDER = Builder(version="1.2", digest=bytes(32))
QEMU = Measured(
    name="qemu",
    version="7.2.22",
    blob=Blob(size=3, sha256=bytes(32), sha384=bytes(48)),
    accelerator="tcg",
    policy=b"{}",
)


DATA = Disk(id="scratch", kind=DiskKind.DATA, path="scratch", file=None, root_hash=None)


def library_with_guest(directory: Path) -> tuple[Library, GuestEntry]:
    write_files(directory)
    key = new_key()
    library = open_library(sign(directory, key, {"web": guest(directory)}), trust(key))
    return library, guest_entry(library, "web")


def launch(library: Library, entry: GuestEntry, hypervisor: Measured = QEMU) -> Launch:
    return measure(BUILDER, hypervisor, library.manifest, library.key_ids, entry)


def test_a_launch_measures_everything_in_order(tmp_path: Path) -> None:
    # Given an entry
    library, entry = library_with_guest(tmp_path)
    # When its launch is measured
    found = launch(library, entry)
    # Then identity goes to PCR 17, content to PCR 18, and the log says the same
    assert [(event.register, event.tag) for event in found.events] == [
        (17, Tag.BUILDER),
        (17, Tag.HYPERVISOR),
        (17, Tag.CONFIGURATION),
        (17, Tag.POLICY),
        (17, Tag.MANIFEST),
        (18, Tag.FIRMWARE),
        (18, Tag.KERNEL),
        (18, Tag.COMMAND_LINE),
        (18, Tag.INITRD),
        (18, Tag.TABLES),
        (18, Tag.TABLES),
    ]
    assert parse_launch_log(found.log) == found.events


def test_the_registers_are_predicted_from_zero(tmp_path: Path) -> None:
    # Given a measured launch
    found = launch(*library_with_guest(tmp_path))
    # When PCR 18 is computed by hand
    for bank, size in (("sha256", 32), ("sha384", 48)):
        value = bytes(size)
        for event in found.events:
            if event.register == 18:
                digest = hashlib.new(bank, event.encode()).digest()
                value = hashlib.new(bank, value + digest).digest()
        # Then it is the predicted one
        assert found.registers[bank][18] == value


def test_each_thing_that_differs_changes_the_measurement(tmp_path: Path) -> None:
    # Given a launch, and others that differ in one thing each
    library, entry = library_with_guest(tmp_path)
    others = [
        launch(library, replace(entry, boot=replace(entry.boot, command_line="console=ttyS0"))),
        launch(library, replace(entry, disks=(DATA,))),
        launch(library, replace(entry, debugger=True)),
        launch(library, replace(entry, machine=replace(entry.machine, memory_mib=512))),
        launch(library, entry, replace(QEMU, accelerator="kvm")),
        launch(library, entry, replace(QEMU, version="8.0")),
        launch(library, entry, replace(QEMU, policy=b"other")),
        launch(replace(library, key_ids=("other",)), entry),
    ]
    # When they are measured
    digests = {each.log_digest for each in (launch(library, entry), *others)}
    # Then no two agree
    assert len(digests) == 1 + len(others)
