"""Disks that UEFI firmware boots from: a GPT with one EFI system partition (FAT32), from files.

Every identifier and time is fixed, so equal files give an equal image.  A loader is signed with the
key whose certificate is in Debian's `OVMF_VARS_4M.snakeoil.fd`: it proves that signatures are
checked, and nothing else.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECTOR: Final = 512
FIRST_SECTOR: Final = 2048
LAST_SECTORS: Final = 2048  # for the second table, rounded up
MIB: Final = 1 << 20
FAT_SLACK: Final = 6 * MIB  # tables and rounding to clusters
SMALLEST: Final = 34 * MIB  # fewer clusters would be no FAT32
ENTRIES, ENTRY_SIZE, TABLE_HEADER_SIZE = 128, 128, 92
DISK_ID: Final = uuid.UUID("7a6e0000-7464-4d65-8000-000000000001").bytes_le
PARTITION_ID: Final = uuid.UUID("7a6e0000-7464-4d65-8000-000000000002").bytes_le
EFI_SYSTEM: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
VOLUME_ID: Final = "7a6e7464"
EPOCH: Final = "1700000000"  # of every file's time
STUB: Final = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
SYSTEMD_BOOT: Final = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
SHIM: Final = Path("/usr/lib/shim/shimx64.efi.signed")
GRUB: Final = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
SNAKEOIL: Final = Path("/usr/share/ovmf")
SNAKEOIL_PASSWORD: Final = "snakeoil"  # noqa: S105 - public, as the key is
BOOT_PATH: Final = "EFI/BOOT/BOOTX64.EFI"
PAGE: Final = 4096
OS_RELEASE: Final = b'ID=tandem\nPRETTY_NAME="Tandem test guest"\nVERSION_ID=1\n'


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What a guest runs."""

    kernel: Path
    initrd: Path
    command_line: str


def make_disk(image: Path, files: Mapping[str, bytes]) -> None:
    """Write a disk whose EFI system partition holds these files, by their paths."""
    size = max(SMALLEST, sum(map(len, files.values())) + FAT_SLACK)
    sectors = -(-size // MIB) * MIB // SECTOR
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        partition = Path(folder, "partition")
        _make_partition(partition, sectors, files)
        with image.open("wb") as disk:
            disk.truncate((FIRST_SECTOR + sectors + LAST_SECTORS) * SECTOR)
            for sector, content in partition_table(sectors).items():
                disk.seek(sector * SECTOR)
                disk.write(content)
            disk.seek(FIRST_SECTOR * SECTOR)
            disk.write(partition.read_bytes())


def partition_table(sectors: int) -> dict[int, bytes]:
    """Give a table of one partition, both copies, by sector (UEFI 2.10, 5.2.3 and 5.3)."""
    total = FIRST_SECTOR + sectors + LAST_SECTORS
    entry = struct.pack("<16s16sQQQ", EFI_SYSTEM, PARTITION_ID, FIRST_SECTOR,
                        FIRST_SECTOR + sectors - 1, 0)  # fmt: skip
    entries = entry.ljust(ENTRIES * ENTRY_SIZE, b"\0")
    last, table_sectors = total - 1, len(entries) // SECTOR
    protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, last)
    return {
        0: bytes(446) + protective.ljust(64, b"\0") + b"\x55\xaa",
        1: _table_header(1, last, 2, total, entries),
        2: entries,
        last - table_sectors: entries,
        last: _table_header(last, 1, last - table_sectors, total, entries),
    }


def _table_header(at: int, other: int, table: int, total: int, entries: bytes) -> bytes:
    first, last = 2 + len(entries) // SECTOR, total - 2 - len(entries) // SECTOR
    rest = struct.pack(
        "<4xQQQQ16sQIII",
        *(at, other, first, last, DISK_ID, table, ENTRIES, ENTRY_SIZE, zlib.crc32(entries)),
    )
    start = struct.pack("<8sII", b"EFI PART", 0x00010000, TABLE_HEADER_SIZE)
    return start + struct.pack("<I", zlib.crc32(start + bytes(4) + rest)) + rest


def systemd_boot_disk(image: Path, boot: Boot, *, signed: Sequence[str] = ()) -> None:
    """Write a disk with systemd-boot and one UKI; `signed` names the parts that get a signature."""
    loader = SYSTEMD_BOOT.read_bytes()
    kernel = unified_kernel(boot)
    make_disk(
        image,
        {
            BOOT_PATH: sign(loader) if "loader" in signed else loader,
            "EFI/Linux/tandem.efi": sign(kernel) if "kernel" in signed else kernel,
            "loader/loader.conf": b"timeout 0\n",
        },
    )


def grub_disk(image: Path, boot: Boot) -> None:
    """Write a disk with shim, Debian's signed GRUB, and a kernel as Debian signed it."""
    configuration = (
        "set timeout=0\n"
        f"linux /vmlinuz {boot.command_line}\n"
        "initrd /initrd\n"
        "boot\n"
    )  # fmt: skip
    make_disk(
        image,
        {
            BOOT_PATH: SHIM.read_bytes(),
            "EFI/BOOT/grubx64.efi": GRUB.read_bytes(),
            "EFI/debian/grub.cfg": configuration.encode(),
            "vmlinuz": boot.kernel.read_bytes(),
            "initrd": boot.initrd.read_bytes(),
        },
    )


def unified_kernel(boot: Boot) -> bytes:
    """Put kernel, initrd and command line into one EFI application, as `ukify` does."""
    with tempfile.TemporaryDirectory() as folder:
        sections: dict[str, Path] = {}
        for name, content in ((".osrel", OS_RELEASE), (".cmdline", boot.command_line.encode())):
            sections[name] = Path(folder, name)
            sections[name].write_bytes(content)
        sections |= {".linux": boot.kernel, ".initrd": boot.initrd}
        address, options = _first_free_address(), []
        for name, path in sections.items():
            options += ["--add-section", f"{name}={path}"]
            options += ["--change-section-vma", f"{name}={address:#x}"]
            address += -(-path.stat().st_size // PAGE) * PAGE
        made = Path(folder, "made")
        _run("objcopy", *options, STUB, made)
        return _without_time(made.read_bytes())


def _without_time(program: bytes) -> bytes:
    """Take the time of its making out of a PE header (PE/COFF, section 3.3: TimeDateStamp)."""
    stamp = int.from_bytes(program[0x3C:0x40], "little") + 8
    return program[:stamp] + bytes(4) + program[stamp + 4 :]


def sign(program: bytes) -> bytes:
    """Sign an EFI application with the snakeoil key."""
    with tempfile.TemporaryDirectory() as folder:
        plain, signed, key = (Path(folder, name) for name in ("plain", "signed", "key"))
        plain.write_bytes(program)
        _run("openssl", "pkey", "-in", SNAKEOIL / "PkKek-1-snakeoil.key", "-out", key,
             "-passin", f"pass:{SNAKEOIL_PASSWORD}")  # fmt: skip
        _run("sbsign", "--key", key, "--cert", SNAKEOIL / "PkKek-1-snakeoil.pem",
             "--output", signed, plain)  # fmt: skip
        return signed.read_bytes()


def _make_partition(partition: Path, sectors: int, files: Mapping[str, bytes]) -> None:
    with partition.open("wb") as file:
        file.truncate(sectors * SECTOR)
    _run("/usr/sbin/mkfs.vfat", "-F", "32", "-s", "1", "--invariant", "-i", VOLUME_ID, partition)
    folders: dict[str, None] = {}
    for path in files:
        parts = path.split("/")[:-1]
        folders |= dict.fromkeys("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    _run("mmd", "-i", partition, *(f"::{each}" for each in folders))
    for path, content in files.items():
        _run("mcopy", "-i", partition, "-", f"::{path}", given=content)


def _first_free_address() -> int:
    """Give the address after the stub's last section."""
    listing = _run("objdump", "--headers", STUB).decode()
    rows = (line.split() for line in listing.splitlines())
    ends = [int(row[3], 16) + int(row[2], 16) for row in rows if len(row) > 3 and row[0].isdigit()]
    return -(-max(ends) // PAGE) * PAGE


def _run(*command: str | Path, given: bytes = b"") -> bytes:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(command, input=given, capture_output=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode('utf-8', 'replace')}")
    return done.stdout
