"""A kernel as QEMU hands it to firmware by fw_cfg: its setup header is written to on the way.

QEMU 7.2 `hw/i386/x86.c`, x86_load_linux: what a boot loader fills in (Documentation/arch/x86/
boot.rst) is filled in before OVMF loads the file, so the digest in PCR 4 is not that of the file.
An EFI application without such a header, as a unified kernel image is, stays as it is.
"""

from __future__ import annotations

import struct
from typing import Final

from tandem.evidence.kernel_image import LINUX_MAGIC, LINUX_MAGIC_AT

HEADER_SIZE: Final = 8192  # bytes of the file that QEMU looks at and may change
REAL_MODE: Final = 0x10000
COMMAND_LINE: Final = 0x20000
QEMU_LOADER: Final = 0xB0
CAN_USE_HEAP: Final = 0x80
CAN_BE_ABOVE_4G: Final = 0x02
ACPI_DATA: Final = 0x28000  # kept free at the end of low memory
MIB, GIB = 1 << 20, 1 << 30
Q35_LOW_MEMORY: Final = 0xB0000000
OVMF_INITRD_OPTION: Final = " initrd=initrd"  # OvmfPkg/Library/GenericQemuLoadImageLib


def as_loaded(kernel: bytes, initrd_size: int, memory_mib: int) -> bytes:
    """Give a kernel's bytes as OVMF loads them; `initrd_size` is 0 without an initrd."""
    header = bytearray(kernel[:HEADER_SIZE])
    if len(header) < HEADER_SIZE or header[LINUX_MAGIC_AT : LINUX_MAGIC_AT + 4] != LINUX_MAGIC:
        return kernel
    protocol, flags = struct.unpack_from("<H", header, 0x206)[0], header[0x211]
    if protocol < 0x203 or not flags & 1:
        return kernel  # too old to have an EFI stub: OVMF does not load it
    setup_size = ((header[0x1F1] or 4) + 1) * 512
    struct.pack_into("<I", header, 0x228, COMMAND_LINE)
    header[0x210] = QEMU_LOADER
    header[0x211] |= CAN_USE_HEAP
    struct.pack_into("<H", header, 0x224, COMMAND_LINE - REAL_MODE - 0x200)
    if initrd_size:
        address = (_initrd_limit(header, protocol, memory_mib) - initrd_size) & ~4095
        struct.pack_into("<II", header, 0x218, address & 0xFFFFFFFF, initrd_size & 0xFFFFFFFF)
    changed = min(HEADER_SIZE, setup_size)
    return bytes(header[:changed]) + kernel[changed:]


def load_options(command_line: str, initrd_size: int) -> bytes:
    """Give the load options that OVMF makes of a command line by fw_cfg; none where it is empty."""
    if not command_line and not initrd_size:
        return b""
    text = command_line + (OVMF_INITRD_OPTION if initrd_size else "")
    return (text + "\0").encode("utf-16-le")


def _initrd_limit(header: bytes | bytearray, protocol: int, memory_mib: int) -> int:
    """Give the highest address that an initrd may have."""
    memory = memory_mib * MIB
    low = memory if memory < Q35_LOW_MEMORY else 2 * GIB
    limit: int = struct.unpack_from("<I", header, 0x22C)[0]
    if protocol >= 0x20C and header[0x236] & CAN_BE_ABOVE_4G:
        limit = 0xFFFFFFFF
    return min(limit, low - ACPI_DATA - 1)
