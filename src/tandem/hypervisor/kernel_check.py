"""Kernels that QEMU 7.2 would load with something that nobody measured, or nobody checked.  Pure.

`x86_load_linux` of QEMU's `hw/i386/x86.c` tries Linux's boot protocol, then multiboot and PVH,
which bring ROMs of their own.
"""

from __future__ import annotations

from typing import Final

from tandem.errors import Refused
from tandem.evidence.guest_entry import DirectBoot, UefiBoot

HEAD_SIZE: Final = 8192  # bytes that QEMU looks at
LINUX_MAGIC: Final = b"HdrS"  # Linux x86 boot protocol, header at 0x1f1: field `header`
LINUX_MAGIC_OFFSET: Final = 0x202
EFI_MAGIC: Final = b"MZ"
MULTIBOOT_MAGIC: Final = (0x1BADB002).to_bytes(4, "little")


def check_kernel(boot: DirectBoot | UefiBoot, head: bytes) -> None:
    """Refuse a kernel by its first bytes, for the way in which it is booted."""
    at = LINUX_MAGIC_OFFSET
    linux = head[at : at + len(LINUX_MAGIC)] == LINUX_MAGIC
    if isinstance(boot, DirectBoot):
        if not linux:
            raise _of_wrong_kind("no Linux bzImage", "the vmlinuz of a distribution, not a vmlinux")
        return
    if not head.startswith(EFI_MAGIC) or (MULTIBOOT_MAGIC in head and not linux):
        raise _of_wrong_kind(
            "no EFI program, or multiboot as well", "a unified kernel image, or a vmlinuz"
        )
    if linux and boot.secure_boot:
        raise Refused(
            "TDM-QEMU-KERNEL-UNCHECKED",
            "OVMF starts a plain Linux kernel from the hypervisor even where Secure Boot finds no "
            "signature that holds: it falls back to a loader that checks none",
            hint="hand over a signed unified kernel image, boot from a disk, or leave secure_boot "
            "out: the kernel is measured in any case",
        )


def _of_wrong_kind(what: str, instead: str) -> Refused:
    return Refused(
        "TDM-QEMU-KERNEL-KIND",
        f"the kernel is {what}, so QEMU would load a ROM that nobody measured",
        hint=f"give {instead}",
    )
