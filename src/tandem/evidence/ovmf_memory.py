"""OVMF's PEI volume as it stands in RAM when Tcg2Pei measures it into PCR 0.

The modules of that volume run in place, and PlatformPei has written its variables by then: what it
found out about the machine (edk2 `OvmfPkg/Include/Library/PlatformInitLib.h`,
EFI_HOB_PLATFORM_INFO, packed) and how much memory of each type the last boot needed
(`OvmfPkg/PlatformPei/MemTypeInfo.c`).  So the digest depends on the machine, and all of it can be
computed but for one number: how wide an address the host's CPU has.  There are few such widths.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.firmware_volume import HINT, WHAT, Volume
from tandem.evidence.guid import guid
from tandem.evidence.variable_store import VariableStore

PLATFORM_PEI: Final = "PlatformPei"
SMM_MODULE: Final = "SmmAccessPei"  # only in a build that demands SMM, as Secure Boot's do
PEI_BASE: Final = 0x820000  # where SEC unpacks the volume (OvmfPkgX64.fdf, MEMFD)
INFO_SIZE: Final = 138
INFO_FIELDS: Final = (
    *(0, 24, 26, 34, 35, 39, 40, 41, 42, 44, 52, 53, 57, 61, 62, 70, 78),
    *(86, 90, 94, 102, 110, 118, 122, 126, 130, 134),
)
INFO_REFERENCES: Final = 8  # times that code names it or its fields, at least
FLAGS: Final = b"\1\1"  # QemuFwCfgPeiLib: fw_cfg is there, and has DMA; they follow in all builds
MIB, GIB = 1 << 20, 1 << 30
Q35_HOST_BRIDGE: Final = 0x29C0
Q35_LOW_MEMORY: Final = 0xB0000000  # memory from here on: QEMU puts 2 GiB below 4 GiB
TSEG_MIB: Final = 16  # extended TSEG of q35 in QEMU since 2.10
PCI_EXPRESS_BASE: Final = 0xB0000000
PCI_32_BIT_END: Final = 0xFC000000
PCI_64_BIT_SIZE: Final = 32 * GIB
PCI_IO: Final = (0x6000, 0xA000)
MAX_CPUS_KNOWN: Final = 64  # PcdCpuMaxLogicalProcessorNumber
ADDRESS_WIDTHS: Final = (36, *range(39, 48))  # those that OVMF believes (QemuQuirk), 36 else
MEMORY_TYPE_INFORMATION: Final = guid("4c19049f-4137-4dd3-9c10-8b97a83ffdfa")
_TYPES: Final = b"".join(  # ACPI NVS, ACPI reclaim, reserved, run-time code, run-time data, end
    re.escape(struct.pack("<I", kind)) + b"(.{4})" for kind in (10, 9, 0, 5, 6, 16)
)
_LEA: Final = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=(.{4}))", re.DOTALL)
_ABSOLUTE: Final = re.compile(rb"(?=(..\x82\x00))", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What of a q35 machine its firmware looks at."""

    cpus: int
    memory_mib: int


def pei_volumes(volume: Volume, store: VariableStore, platform: Platform) -> tuple[bytes, ...]:
    """Give the volume's bytes as measured, one for each width of addresses that is possible."""
    file = next((each for each in volume.files if volume.user_interface(each) == PLATFORM_PEI), b"")
    if not file:
        raise Cursor(b"", WHAT, hint=HINT).broken(f"its PEI volume has no {PLATFORM_PEI}")
    module = volume.files[file]
    start = volume.data.index(module)
    info = start + _information_offset(module, start)
    demands_smm = any(volume.user_interface(each) == SMM_MODULE for each in volume.files)
    data = volume.data
    if demands_smm:
        data = _with_memory_types(data, start, len(module), store)
    return tuple(
        data[:info] + each + FLAGS + data[info + INFO_SIZE + len(FLAGS) :]
        for each in _informations(platform, demands_smm)
    )


def _information_offset(module: bytes, start: int) -> int:
    """Find the structure in a module: zeros, and what code names there fits its fields best."""
    named = Counter(_targets(module, start))
    size = INFO_SIZE + len(FLAGS)
    fits = {
        each: sum(named[each + field] for field in INFO_FIELDS)
        for each in sorted(named)
        if 0 < each <= len(module) - size and not any(module[each : each + size])
    }
    offset = max(fits, key=lambda each: fits[each], default=0)
    if fits.get(offset, 0) < INFO_REFERENCES:
        raise Cursor(module, WHAT, hint=HINT).broken(
            f"where {PLATFORM_PEI} keeps its variables is not found: an unknown build of OVMF"
        )
    return offset


def _targets(module: bytes, start: int) -> Iterator[int]:
    """Give the offsets that code names, relative to the instruction or as an address."""
    for match in _LEA.finditer(module):
        yield match.end() + 4 + int.from_bytes(match[1], "little", signed=True)
    for match in _ABSOLUTE.finditer(module):
        yield int.from_bytes(match[1], "little") - PEI_BASE - start


def _informations(platform: Platform, smm: bool) -> Iterator[bytes]:
    """Write EFI_HOB_PLATFORM_INFO for each width, as PlatformPei's InitializePlatform does."""
    memory = platform.memory_mib * MIB
    low = memory if memory < Q35_LOW_MEMORY else 2 * GIB
    end = 4 * GIB + memory - low
    classic_base = -(-end // PCI_64_BIT_SIZE) * PCI_64_BIT_SIZE
    first_non_address = classic_base + PCI_64_BIT_SIZE
    guessed = max(36, (first_non_address - 1).bit_length())
    for width in ADDRESS_WIDTHS:
        dynamic = 1 << (width - 3)
        fits = dynamic > PCI_64_BIT_SIZE and classic_base + dynamic < 1 << width
        pci_size = dynamic if fits else PCI_64_BIT_SIZE
        pci_base = (1 << width) - dynamic if fits else classic_base
        pci_32_bit = PCI_EXPRESS_BASE + 256 * MIB
        yield struct.pack(
            "<24xHQBIBBBHQBIIBQQQIIQQQIII8x",
            *(Q35_HOST_BRIDGE, 0, 0, 0, 0),  # no SEV; a full boot, without S3
            *(smm, smm, TSEG_MIB if smm else 0),
            *(first_non_address, width if width > 36 else guessed),
            *(2 * GIB if low <= 2 * GIB else PCI_EXPRESS_BASE, 0, 0, 0),
            *(pci_base, pci_size, pci_32_bit, PCI_32_BIT_END - pci_32_bit, *PCI_IO, 0),
            *(platform.cpus, platform.cpus, MAX_CPUS_KNOWN),
        )


def _with_memory_types(data: bytes, start: int, size: int, store: VariableStore) -> bytes:
    """Raise the numbers of pages to those in the variable that the last boot left."""
    found = re.compile(_TYPES, re.DOTALL).search(data, start, start + size)
    stored = store.read(MEMORY_TYPE_INFORMATION, "MemoryTypeInformation")
    if found is None or len(stored) % 8 or len(stored) > 17 * 8:
        return data
    needed: dict[int, int] = {}
    for kind, pages in struct.iter_unpack("<II", stored):
        needed.setdefault(kind, pages)
    table = b"".join(
        struct.pack("<II", kind, pages if kind == 16 else max(pages, needed.get(kind, 0)))
        for kind, pages in struct.iter_unpack("<II", found[0])
    )
    return data[: found.start()] + table + data[found.end() :]
