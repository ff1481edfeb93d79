"""The machine of a library entry as its firmware will find it: what a prediction starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tandem.evidence.guest_entry import DiskKind, GuestEntry, UefiBoot
from tandem.evidence.launch_plan import DEVICES
from tandem.evidence.ovmf_memory import Platform
from tandem.evidence.prediction import Prediction
from tandem.evidence.uefi_boot import BootDisk, Bytes, UefiMachine, predict

PCI_DEVICES: Final = ("virtio-serial-pci", "virtio-blk-pci", "i6300esb", "pvpanic-pci")
FIRST_SLOT: Final = 1  # of q35: QEMU gives out slots in the order of its command line
KEPT: Final = "the guest's own variables, kept since its first launch, have a part in it"


def predict_entry(entry: GuestEntry, boot: UefiBoot, contents: Mapping[str, Bytes]) -> Prediction:
    """Predict a guest of the entry; `contents` are its files, by their path in the library."""
    slots = sum(1 for device in DEVICES if device["driver"] in PCI_DEVICES)
    found = predict(
        UefiMachine(
            firmware=contents[boot.firmware.path][:],
            variables=contents[boot.variables.path][:],
            platform=Platform(cpus=entry.machine.cpus, memory_mib=entry.machine.memory_mib),
            disks=tuple(
                BootDisk(
                    device=FIRST_SLOT + slots + number,
                    content=contents[disk.path] if disk.kind is DiskKind.IMAGE else None,
                )
                for number, disk in enumerate(entry.disks)
            ),
            kernel=contents[boot.kernel.path][:] if boot.kernel else None,
            initrd=contents[boot.initrd.path][:] if boot.initrd else b"",
            command_line=boot.command_line or "",
        )
    )
    if not boot.keep_variables:
        return found
    return replace(found, unpredicted={**dict.fromkeys((0, 1), KEPT), **found.unpredicted})
