"""QEMU's command line for UEFI guests: flash and disks by descriptor, nothing by path."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tandem.errors import HostError
from tandem.evidence.guest_entry import Disk, DiskKind
from tandem.evidence.launch_plan import machine_configuration
from tandem.hypervisor.qemu_args import Numbers, arguments
from tests.unit.evidence.test_uefi_plan import BOOT, ENTRY, FILE, IMAGE
from tests.unit.hypervisor.test_qemu_args import NUMBERS

DATA = Disk(id="scratch", kind=DiskKind.DATA, path="s", file=None, root_hash=None)
GIVEN = replace(
    NUMBERS, kernel=None, initrd=None, variables=21, disks={"system": 22, "scratch": 23}
)


def test_flash_and_disks_come_from_descriptors() -> None:
    # Given a guest with Secure Boot, a measured disk and one for data
    entry = replace(ENTRY, disks=(IMAGE, DATA))
    # When QEMU's command line is made
    line = arguments(machine_configuration(entry, "tcg"), None, GIVEN)
    text = " ".join(line)
    # Then each is a block node of a descriptor set, writable only where it has to be
    nodes = [each for each in line if each.startswith("driver=file")]
    assert all("filename=/dev/fdset/" in each for each in nodes)
    assert [each.rpartition("read-only=")[2] for each in nodes] == ["on", "off", "on", "off"]
    for number in (10, 21, 22, 23):
        assert f"-add-fd fd={number},set=" in text
    # And only System Management Mode writes the variables; there is no kernel and no BIOS
    assert "driver=cfi.pflash01,property=secure,value=on" in line
    assert not {"-bios", "-kernel", "-initrd", "-append"} & set(line)
    assert "serial=system" in text


def test_a_uki_is_a_kernel_alone() -> None:
    # Given a guest whose kernel is handed over, without Secure Boot
    entry = replace(ENTRY, boot=replace(BOOT, kernel=FILE, secure_boot=False), disks=())
    # When QEMU's command line is made
    line = arguments(machine_configuration(entry, "tcg"), None, replace(GIVEN, kernel=11, disks={}))
    # Then it has the kernel and nothing that belongs to another way of booting
    assert line[line.index("-kernel") + 1] == "/proc/self/fd/11"
    assert not {"-bios", "-initrd", "-append"} & set(line)
    assert "driver=cfi.pflash01,property=secure,value=on" not in line


@pytest.mark.parametrize("given", [replace(GIVEN, variables=None), replace(GIVEN, disks={})])
def test_an_input_that_nobody_opened_is_refused(given: Numbers) -> None:
    # Given a configuration with variables and a disk, and one of them not opened
    # When QEMU's command line is made
    # Then nothing is started
    with pytest.raises(HostError) as failed:
        arguments(machine_configuration(ENTRY, "tcg"), None, given)
    assert failed.value.code == "TDM-QEMU-INPUT-MISSING"
