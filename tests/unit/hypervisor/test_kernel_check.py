"""Kernels by their first bytes: what QEMU or OVMF would do with each, seen on QEMU 7.2."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tandem.errors import Refused
from tandem.evidence.guest_entry import DirectBoot, UefiBoot
from tandem.hypervisor.kernel_check import check_kernel
from tests.unit.evidence.test_uefi_plan import BOOT
from tests.unit.hypervisor.test_qemu_args import ENTRY

LINUX = b"MZ" + bytes(0x200) + b"HdrS" + bytes(512)
UKI = b"MZ" + bytes(1024)
ELF = b"\x7fELF" + bytes(1024)
MULTIBOOT = b"MZ" + bytes(510) + (0x1BADB002).to_bytes(4, "little") + bytes(512)
PLAIN = replace(BOOT, secure_boot=False)


@pytest.mark.parametrize(("boot", "head"), [(ENTRY.boot, LINUX), (PLAIN, LINUX), (PLAIN, UKI),
                                            (BOOT, UKI)])  # fmt: skip
def test_a_kernel_that_loads_as_measured_is_taken(boot: DirectBoot | UefiBoot, head: bytes) -> None:
    # Given a kernel of the kind that the way of booting takes
    # When it is checked
    # Then nothing is said against it
    check_kernel(boot, head)


@pytest.mark.parametrize(
    ("boot", "head", "code"),
    [
        (ENTRY.boot, UKI, "TDM-QEMU-KERNEL-KIND"),
        (ENTRY.boot, ELF, "TDM-QEMU-KERNEL-KIND"),
        (ENTRY.boot, b"", "TDM-QEMU-KERNEL-KIND"),
        (PLAIN, ELF, "TDM-QEMU-KERNEL-KIND"),
        (PLAIN, MULTIBOOT, "TDM-QEMU-KERNEL-KIND"),
        (BOOT, b"", "TDM-QEMU-KERNEL-KIND"),
        (BOOT, LINUX, "TDM-QEMU-KERNEL-UNCHECKED"),
    ],
)
def test_any_other_is_refused(boot: DirectBoot | UefiBoot, head: bytes, code: str) -> None:
    # Given a kernel with which something unmeasured is loaded, or whose signature nobody checks
    # When it is checked
    # Then it is refused before anything runs
    with pytest.raises(Refused) as refused:
        check_kernel(boot, head)
    assert refused.value.code == code
