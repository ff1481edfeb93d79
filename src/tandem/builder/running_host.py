"""What a builder finds on its host, for the launch of the host's own vTPM.

All of it is what the running system shows of itself.  Whether that system is to be believed is what
the physical TPM's registers say, and they are in each deep quote.
"""

from __future__ import annotations

import os
import struct
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.builder.inputs import digest, opened, read_small
from tandem.errors import HostError
from tandem.evidence.host_plan import RunningHost
from tandem.evidence.launch import Blob
from tandem.evidence.strict_json import Place

COMMAND_LINE: Final = Path("/proc/cmdline")
NOTES: Final = Path("/sys/kernel/notes")
FIRMWARE: Final = Path("/sys/class/dmi/id")
FIRMWARE_FIELDS: Final = ("bios_vendor", "bios_version", "bios_date")
RELEASE: Final = "{release}"
KERNEL: Final = f"/boot/vmlinuz-{RELEASE}"
INITRD: Final = f"/boot/initrd.img-{RELEASE}"
MAX_SETTINGS: Final = 64 * 1024
NOTE: Final = struct.Struct("=III")  # Elf64_Nhdr: sizes of name and descriptor, type (elf(5))
GNU: Final = b"GNU\0"
BUILD_ID: Final = 3  # NT_GNU_BUILD_ID
ALIGNMENT: Final = 4


@dataclass(frozen=True, kw_only=True)
class HostVtpmSettings:
    """`host-vtpm.toml`: `start` begins it with the builder; a file not named may be missing."""

    start: bool = False
    group: str = "default"
    kernel: str | None = None
    initrd: str | None = None


def read_settings(path: Path) -> HostVtpmSettings:
    """Read the settings; without a file, those of a vTPM that is started by hand."""
    if not path.exists():
        return HostVtpmSettings()
    return parse_settings(read_small(path, MAX_SETTINGS))


def parse_settings(data: bytes) -> HostVtpmSettings:
    """Read TOML, or refuse it and name the place that is wrong."""
    root = Place(value=None, path="$", what="host-vtpm.toml", code="TDM-HOST-VTPM-SETTINGS")
    try:
        root = root.replaced(tomllib.loads(data.decode("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        root.refuse(f"not TOML: {str(error)[:120]}")
    fields = root.fields((), ("start", "group", "kernel", "initrd"))
    return HostVtpmSettings(
        start=fields["start"].typed(bool) if "start" in fields else False,
        group=fields["group"].name() if "group" in fields else "default",
        kernel=fields["kernel"].text() if "kernel" in fields else None,
        initrd=fields["initrd"].text() if "initrd" in fields else None,
    )


def find_host(settings: HostVtpmSettings) -> RunningHost:
    """Look at the running system, and digest the files that it should have been loaded from."""
    release = os.uname().release
    return RunningHost(
        release=release,
        build_id=running_build_id(),
        command_line=_line(COMMAND_LINE),
        firmware=_firmware(),
        kernel=_file(settings.kernel, KERNEL, release),
        initrd=_file(settings.initrd, INITRD, release),
    )


def running_build_id() -> bytes:
    """Give the GNU build id that the running kernel carries; empty where it shows none."""
    return gnu_build_id(NOTES.read_bytes()) if NOTES.exists() else b""


def gnu_build_id(notes: bytes) -> bytes:
    """Find the GNU build id among ELF notes; empty where there is none."""
    offset = 0
    while offset + NOTE.size <= len(notes):
        name_size, size, kind = NOTE.unpack_from(notes, offset)
        name_at = offset + NOTE.size
        at = name_at + _aligned(name_size)
        if kind == BUILD_ID and notes[name_at : name_at + name_size] == GNU:
            return notes[at : at + size]
        offset = at + _aligned(size)
    return b""


def _firmware() -> str | None:
    """Give vendor, version and date of the firmware (SMBIOS type 0), where the kernel has them."""
    words = [_line(FIRMWARE / name) for name in FIRMWARE_FIELDS if (FIRMWARE / name).exists()]
    return " ".join(words) or None


def _file(named: str | None, usual: str, release: str) -> Blob | None:
    """Digest a file; one that nobody named may be missing."""
    path = Path((named or usual).replace(RELEASE, release))
    if named is None and not path.exists():
        return None
    try:
        resolved = Path(os.path.realpath(path, strict=True))  # /boot's names are often links
    except OSError as error:
        raise HostError(
            "TDM-HOST-VTPM-FILE",
            f"host-vtpm.toml names {path}, which cannot be read: {error.strerror}",
            hint="name the file that the boot loader loads, or leave the line out",
        ) from error
    with opened(resolved.parent, resolved.name) as descriptor:
        return digest(descriptor)


def _line(path: Path) -> str:
    """Read one line as printable ASCII, whatever bytes it holds."""
    text = path.read_bytes().strip().decode("ascii", "backslashreplace")
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
