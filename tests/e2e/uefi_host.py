"""A real host whose library has UEFI guests, one for each way in which they boot."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.integration.builder.running_host import COMMAND_LINE, IMAGE, RunningHost
from uefi_disk import Boot, grub_disk, systemd_boot_disk, unified_kernel

FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
PROGRAMS = ("/usr/bin/mcopy", "/usr/sbin/mkfs.vfat", "/usr/bin/objcopy", "/usr/bin/sbsign")
SCRATCH_SIZE = 1 << 20
SNAKEOIL = """\
secure_boot = true
variables = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
"""
GUESTS = {  # entry: what it says beside `boot`, and the image that it boots from
    "plain": ("", "plain"),
    "kept": ("keep_variables = true\n", "plain"),
    "signed": (SNAKEOIL, "signed"),
    "unsigned": (SNAKEOIL, "plain"),
    "tampered": (SNAKEOIL, "tampered"),
    "debian": ("secure_boot = true\n", "debian"),  # the store with Microsoft's keys is the default
}


class UefiHost(RunningHost):
    """A host directory with its services; `close` ends and removes all of it."""

    def _make_library(self) -> None:
        super()._make_library()
        initrd = self.library / "initrd.gz"
        initrd.write_bytes(gzip.compress((IMAGE / "initramfs.cpio").read_bytes(), 3, mtime=0))
        boot = Boot(kernel=IMAGE / "vmlinuz", initrd=initrd, command_line=COMMAND_LINE)
        systemd_boot_disk(self.library / "plain.img", boot)
        systemd_boot_disk(self.library / "signed.img", boot, signed=("loader", "kernel"))
        systemd_boot_disk(self.library / "tampered.img", boot, signed=("loader",))
        grub_disk(self.library / "debian.img", boot)
        (self.library / "uki.efi").write_bytes(unified_kernel(boot))
        with (self.library / "scratch.img").open("wb") as scratch:
            scratch.truncate(SCRATCH_SIZE)
        entries = [entry_of(name, wishes, image) for name, (wishes, image) in GUESTS.items()]
        entries.append('[entries.uki]\nboot = "uefi"\nkernel = "uki.efi"\n')
        source = self.library / "library.toml"
        source.write_text("\n".join([source.read_text(), *entries]))
        self.tandem("library", "sign", "--key", str(self.key))


def entry_of(name: str, wishes: str, image: str) -> str:
    """Write an entry that boots from a measured disk; `plain` has a disk for data beside it."""
    disk = f'[[entries.{name}.disks]]\nid = "{{id}}"\nkind = "{{kind}}"\npath = "{{path}}.img"\n'
    disks = disk.format(id="system", kind="image", path=image)
    if name == "plain":
        disks += disk.format(id="scratch", kind="data", path="scratch")
    return f'[entries.{name}]\nboot = "uefi"\nmachine = {{ memory_mib = 512 }}\n{wishes}{disks}'
