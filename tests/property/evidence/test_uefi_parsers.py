"""Every reader of firmware, disks and boot loaders is total, and ends soon whatever it is given."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.appraisal.firmware import appraise_firmware
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.boot_options import END, LoadOption, parse_load_option, path_nodes
from tandem.evidence.fat import FatFiles
from tandem.evidence.firmware_volume import measured_volumes
from tandem.evidence.gpt import parse_gpt
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.ovmf_memory import Platform
from tandem.evidence.pe_image import parse_pe
from tandem.evidence.prediction import REGISTERS, Part, Prediction, predicted
from tandem.evidence.qemu_kernel import as_loaded
from tandem.evidence.signature_database import authority, parse_signatures
from tandem.evidence.systemd_boot import chosen_entry, compare_versions
from tandem.evidence.uefi_boot import BootDisk, UefiMachine, predict
from tandem.evidence.variable_store import parse_variable_store
from tests.unit.evidence.uefi_writer import (
    compressed,
    fat_partition,
    firmware_image,
    gpt_disk,
    pe_image,
    signature_list,
    variable_store,
    volume_section,
)

Reader = Callable[[bytes], object]
PE = pe_image({b".linux": b"kernel", b".cmdline": b"quiet", b".osrel": b"ID=x"}, b"\x30\x03abc")
STORE = variable_store({(EFI_GLOBAL_VARIABLE, "BootOrder"): b"\0\0"})
FILES = {"EFI/BOOT/BOOTX64.EFI": PE, "EFI/Linux/a.efi": PE, "loader/loader.conf": b"default a*\n"}
PARTITION = fat_partition(FILES)
DISK = gpt_disk(PARTITION)
VOLUME = volume_section(firmware_image(b""))
FIRMWARE = firmware_image(compressed(VOLUME + VOLUME))


def digested(data: bytes) -> object:
    image = parse_pe(data)
    image.authenticode("sha256")
    return image.signatures, [image.content(each) for each in image.sections]


def vouched(data: bytes) -> object:
    return authority(parse_pe(data), signature_list(b"x" * 40), b"", "it")


def every_file(data: bytes) -> object:
    files = FatFiles(data)
    return [files.read(path) for path in FILES], files.list("EFI/Linux")


def chosen(data: bytes) -> object:
    return chosen_entry(FatFiles(data), parse_variable_store(STORE))


def table(data: bytes) -> object:
    return parse_gpt(data, len(data))


def firmware_of_a_machine(data: bytes) -> object:
    return predict(
        UefiMachine(
            firmware=data,
            variables=STORE,
            platform=Platform(cpus=1, memory_mib=256),
            disks=(BootDisk(device=2, content=DISK),),
        )
    )


def loaded(data: bytes) -> object:
    return as_loaded(data, 100, 256)


READERS: list[Reader] = [
    *(digested, vouched, every_file, chosen, table, firmware_of_a_machine, loaded),
    *(measured_volumes, parse_variable_store, parse_load_option, path_nodes, parse_signatures),
]
SEEDS = [
    *(PE, STORE, PARTITION[: 1 << 16], DISK[: 1 << 16], FIRMWARE, signature_list(b"y" * 60)),
    LoadOption(attributes=1, description="x", path=END, data=b"d").encode(),
]


def check(reader: Reader, data: bytes) -> None:
    refusal: UntrustedInput | Refused | None = None
    try:
        reader(data)
    except (UntrustedInput, Refused) as error:
        refusal = error
    assert refusal is None or refusal.code.startswith("TDM-")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(data=st.binary(max_size=600))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_refused(reader: Reader, data: bytes) -> None:
    # Given any bytes
    # When they are read
    # Then a value or a refusal comes out
    check(reader, data)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 4096), st.binary(max_size=8)), max_size=6),
    end=st.none() | st.integers(0, 4096),
)
@settings(max_examples=60, deadline=None)
def test_changed_real_bytes_are_read_or_refused(
    reader: Reader, seed: bytes, changes: list[tuple[int, bytes]], end: int | None
) -> None:
    # Given well-formed bytes with pieces overwritten, and perhaps cut
    data = bytearray(seed)
    for at, piece in changes:
        start = at % (len(data) + 1)
        data[start : start + len(piece)] = piece

    # When they are read
    # Then a value or a refusal comes out
    check(reader, bytes(data[:end]))


@given(clusters=st.lists(st.integers(0, 0xFFFFFFFF), min_size=64, max_size=64))
@settings(max_examples=60, deadline=None)
def test_any_table_of_clusters_ends(clusters: list[int]) -> None:
    # Given a partition whose table of clusters leads anywhere, in circles too
    data = bytearray(PARTITION)
    reserved, sector = struct.unpack_from("<H", data, 14)[0], struct.unpack_from("<H", data, 11)[0]
    struct.pack_into("<64I", data, reserved * sector, *clusters)

    # When its files are read
    # Then a value or a refusal comes out
    check(every_file, bytes(data))


@given(log=st.binary(max_size=300), value=st.binary(min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_any_log_of_a_guest_gives_findings(log: bytes, value: bytes) -> None:
    # Given a prediction, registers that hold anything, and any log
    prediction = Prediction(
        secure_boot=True, events=(predicted(4, Part.LOADER, "loader", b"x"),), unpredicted={}
    )

    # When they are appraised
    findings = appraise_firmware(prediction, dict.fromkeys(REGISTERS, value), log, True)

    # Then there are findings, and none is an exception
    assert findings


VERSIONS = st.text("0123456789ab-.~^", max_size=12)


@given(st.lists(VERSIONS, min_size=3, max_size=3))
def test_versions_are_ordered(versions: list[str]) -> None:
    # Given three versions in the order that comparing gives
    def before(one: str, other: str) -> bool:
        return compare_versions(one, other) <= 0

    # When each is compared with the next, both ways
    # Then the answers agree
    for one, other in pairwise(versions):
        assert before(one, other) or before(other, one)
        assert (compare_versions(one, other) == 0) == (compare_versions(other, one) == 0)
