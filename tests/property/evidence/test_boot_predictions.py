"""Whole boots of Debian's OVMF from hostile disks and variables: predicted, or refused by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import UntrustedInput
from tandem.evidence.boot_options import END, LoadOption, pci_path
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.ovmf_memory import Platform
from tandem.evidence.prediction import Prediction, read_prediction
from tandem.evidence.strict_json import Place
from tandem.evidence.uefi_boot import BootDisk, UefiMachine, predict
from tests.unit.evidence.uefi_writer import fat_partition, gpt_disk, pe_image, variable_store

OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
pytestmark = pytest.mark.skipif(not OVMF.exists(), reason="ovmf is not installed")
KERNEL = pe_image({b".text": b"code"})
IMAGE = pe_image({
    b".sdmagic": b"#### LoaderInfo: systemd-stub 252 ####", b".osrel": b"ID=x\n",
    b".cmdline": b"quiet", b".linux": KERNEL,
})  # fmt: skip
LOADER = pe_image({b".sdmagic": b"#### LoaderInfo: systemd-boot 252 ####"})
FILES = {"EFI/BOOT/BOOTX64.EFI": LOADER, "EFI/Linux/a.efi": IMAGE}
OPTION = LoadOption(attributes=1, description="x", path=pci_path(1, 0) + END).encode()
STORE = variable_store({
    (EFI_GLOBAL_VARIABLE, "BootOrder"): b"\0\0", (EFI_GLOBAL_VARIABLE, "Boot0000"): OPTION,
})  # fmt: skip
DISK = gpt_disk(fat_partition(FILES))
Changes = list[tuple[int, bytes]]
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=8)), max_size=4)


@cache
def firmware() -> bytes:
    return OVMF.read_bytes()


def boot(store: bytes, disk: bytes) -> Prediction:
    platform = Platform(cpus=1, memory_mib=256)
    disks = (BootDisk(device=1, content=disk),)
    return predict(
        UefiMachine(firmware=firmware(), variables=store, platform=platform, disks=disks)
    )


def reads_back(found: Prediction) -> bool:
    place = Place(value=found.document(), path="$", what="manifest", code="TDM-MANIFEST-BAD")
    return read_prediction(place) == found


def overwritten(data: bytes, changes: Changes) -> bytes:
    result = bytearray(data)
    for at, piece in changes:
        start = at % (len(result) + 1)
        result[start : start + len(piece)] = piece
    return bytes(result)


def test_the_boot_that_is_changed_below_is_predicted_whole() -> None:
    # Given the disk and the variables as they were written
    # When the boot is followed
    # Then nothing of it is left open
    assert boot(STORE, DISK).unpredicted == {}


@pytest.mark.parametrize(
    "name", ["b\x1b[31m+3.efi", "b\u1234+3.efi", "b\n+3.efi", "b" * 250 + "+3.efi"]
)
def test_a_reason_is_printable_whatever_a_disk_names_its_files(name: str) -> None:
    # Given a disk with a file that makes the choice of systemd-boot unknown, under a hostile name
    disk = gpt_disk(fat_partition({**FILES, f"EFI/Linux/{name}": IMAGE}))

    # When the boot is predicted
    found = boot(STORE, disk)

    # Then the reason has the name in printable words, and a manifest can hold it
    assert "counts its boots" in found.unpredicted[4] or len(name) > 200
    assert reads_back(found)


@given(store=CHANGES, disk=CHANGES)
@settings(max_examples=25, deadline=None)
def test_changed_boots_are_predicted_or_refused(store: Changes, disk: Changes) -> None:
    # Given variables and a disk with pieces overwritten
    variables, content = overwritten(STORE, store), overwritten(DISK, disk)

    # When the boot is followed
    found: Prediction | None = None
    refused = ""
    try:
        found = boot(variables, content)
    except UntrustedInput as refusal:
        refused = refusal.code

    # Then it is refused by name, or predicted so that a manifest can hold it
    assert reads_back(found) if found is not None else refused.startswith("TDM-")
