"""An `on-request` entry of a library: everything that a guest is built from.

Two ways to boot.  *Direct*: SeaBIOS, and the hypervisor loads kernel and initrd.  *UEFI*: OVMF in
flash with a store of variables; it boots from a disk, or the hypervisor hands it a kernel (a UKI is
a kernel alone).  What a disk is worth depends on its kind, and the launch says which it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tandem.evidence.manifest_file import ManifestFile, read_manifest_file, read_relative_path
from tandem.evidence.prediction import Prediction, read_prediction
from tandem.evidence.strict_json import Place
from tandem.values import SHA256_SIZE

MAX_ROMS: Final = 16
MAX_DISKS: Final = 16
MAX_DISK_ID: Final = 20  # VIRTIO_BLK_ID_BYTES: the guest knows a disk by it
MAX_COMMAND_LINE: Final = 2047  # COMMAND_LINE_SIZE of Linux on x86, less its end
MAX_MEMORY_MIB: Final = 4 * 1024 * 1024
MAX_CPUS: Final = 255  # q35 without an interrupt remapper
_CPU: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,+=-]{0,127}")
_KEYS: Final = ("kind", "hypervisor", "group", "vtpm", "boot", "disks", "machine")
ROOT_HASH: Final = "roothash="  # systemd-veritysetup-generator(8), and Tandem's own initramfs
ROOT_HASH_OPTIONS: Final = (ROOT_HASH, "usrhash=", f"tandem.{ROOT_HASH}")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The virtual machine that an entry asks for."""

    type: str
    cpu: str
    cpus: int
    memory_mib: int


class PlatformAuth(StrEnum):
    """Who sets the platform's authorisation at random before the guest's system runs."""

    FIRMWARE = "firmware"  # SeaBIOS and OVMF do, and expect it empty until then
    VTPM = "vtpm"  # for firmware that leaves the TPM alone


class LockoutAuth(StrEnum):
    """Who sets the authorization that resets the vTPM's dictionary attack counter."""

    GUEST = "guest"  # its system, or nobody; Windows expects it empty
    STRICT = "strict"  # the vTPM, at random and for good, before the guest's system runs


@dataclass(frozen=True, kw_only=True)
class DirectBoot:
    """SeaBIOS loads nothing from a disk: kernel and initrd come from the hypervisor."""

    kernel: ManifestFile
    initrd: ManifestFile
    command_line: str
    firmware: ManifestFile
    roms: tuple[ManifestFile, ...]  # option ROMs that the hypervisor loads of itself
    platform_auth: PlatformAuth

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """Every file that is loaded."""
        return (self.firmware, self.kernel, self.initrd, *self.roms)


@dataclass(frozen=True, kw_only=True)
class UefiBoot:
    """OVMF: its code and its variables in flash, the latter as a fresh copy for each launch.

    With `keep_variables` the copy is the guest's own from its first launch on, and each launch
    measures what it holds by then.
    """

    firmware: ManifestFile
    variables: ManifestFile  # what the first copy, or each, is made of
    keep_variables: bool
    secure_boot: bool  # the firmware guards its variables by System Management Mode
    kernel: ManifestFile | None
    initrd: ManifestFile | None
    command_line: str | None
    roms: tuple[ManifestFile, ...]
    prediction: Prediction | None = None  # what the firmware will measure

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """Every file that is loaded."""
        given = (self.kernel, self.initrd)
        return (
            *(self.firmware, self.variables),
            *(file for file in given if file is not None),
            *self.roms,
        )


class DiskKind(StrEnum):
    """What is known of a disk's content before the guest's first instruction."""

    IMAGE = "image"  # all of it: read-only, copied into sealed memory and hashed
    VERITY = "verity"  # what dm-verity's root hash, on a measured command line, vouches for
    FS_VERITY = "fs-verity"  # what the host's kernel checks at each read, against a digest
    DATA = "data"  # nothing: read and written by the guest


@dataclass(frozen=True, kw_only=True)
class Disk:
    """One virtio disk; it has a file with digests, or a path alone where nothing is measured."""

    id: str
    kind: DiskKind
    path: str
    file: ManifestFile | None  # of an `image`
    root_hash: bytes | None  # of a `verity` disk
    digest: bytes | None = None  # of an `fs-verity` disk: SHA-256, as `fsverity measure` shows it

    @property
    def read_only(self) -> bool:
        """Whether the guest cannot write to it."""
        return self.kind is not DiskKind.DATA


@dataclass(frozen=True, kw_only=True)
class GuestEntry:
    """An `on-request` entry: everything that a guest is built from."""

    name: str
    hypervisor: str
    group: str
    ephemeral: bool
    boot: DirectBoot | UefiBoot
    disks: tuple[Disk, ...]
    machine: Machine
    lockout_auth: LockoutAuth = LockoutAuth.GUEST
    debugger: bool = False  # whoever is root on the host may read and change the guest's memory

    @property
    def command_line(self) -> str | None:
        """The kernel's, where the hypervisor hands it over."""
        return self.boot.command_line

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """Every file whose digests the entry has."""
        images = (disk.file for disk in self.disks)
        return (*self.boot.files, *(file for file in images if file is not None))


def read_guest_entry(name: str, place: Place) -> GuestEntry:
    """Read an entry, or refuse it and name the place that is wrong."""
    fields = place.fields(_KEYS, ("debugger", "lockout_auth"))
    disks = tuple(_disk(each) for each in fields["disks"].items(MAX_DISKS))
    if len({disk.id for disk in disks}) != len(disks):
        fields["disks"].refuse("two disks have one id")
    boot = _boot(fields["boot"])
    if not disks and boot.kernel is None:
        fields["boot"].refuse("neither a kernel nor a disk that it could boot from")
    for disk in disks:
        _require_root_hash(disk, boot, fields["disks"])
    return GuestEntry(
        name=name,
        hypervisor=fields["hypervisor"].one_of("qemu"),
        group=fields["group"].name(),
        ephemeral=fields["vtpm"].one_of("persistent", "ephemeral") == "ephemeral",
        boot=boot,
        disks=disks,
        machine=_machine(fields["machine"]),
        lockout_auth=_lockout_auth(fields),
        debugger="debugger" in fields and fields["debugger"].typed(bool),
    )


def _lockout_auth(fields: Mapping[str, Place]) -> LockoutAuth:
    if "lockout_auth" not in fields:
        return LockoutAuth.GUEST
    return LockoutAuth(fields["lockout_auth"].one_of(*(each.value for each in LockoutAuth)))


def _boot(place: Place) -> DirectBoot | UefiBoot:
    method = place.at(place.typed(dict).get("method"), "method").one_of("direct", "uefi")
    return _direct(place) if method == "direct" else _uefi(place)


def _direct(place: Place) -> DirectBoot:
    fields = place.fields(
        ("method", "kernel", "initrd", "command_line", "firmware", "roms", "platform_auth")
    )
    return DirectBoot(
        kernel=read_manifest_file(fields["kernel"]),
        initrd=read_manifest_file(fields["initrd"]),
        command_line=fields["command_line"].text(MAX_COMMAND_LINE),
        firmware=read_manifest_file(fields["firmware"]),
        roms=_roms(fields["roms"]),
        platform_auth=PlatformAuth(
            fields["platform_auth"].one_of(*(each.value for each in PlatformAuth))
        ),
    )


def _uefi(place: Place) -> UefiBoot:
    fields = place.fields(
        ("method", "firmware", "variables", "keep_variables", "secure_boot", "roms"),
        ("kernel", "initrd", "command_line", "prediction"),
    )
    if "kernel" not in fields and fields.keys() & {"initrd", "command_line"}:
        place.refuse("an initrd or a command line, and no kernel that could take it")
    return UefiBoot(
        firmware=read_manifest_file(fields["firmware"]),
        variables=read_manifest_file(fields["variables"]),
        keep_variables=fields["keep_variables"].typed(bool),
        secure_boot=fields["secure_boot"].typed(bool),
        kernel=_optional_file(fields, "kernel"),
        initrd=_optional_file(fields, "initrd"),
        command_line=fields["command_line"].text(MAX_COMMAND_LINE)
        if "command_line" in fields
        else None,
        roms=_roms(fields["roms"]),
        prediction=read_prediction(fields["prediction"]) if "prediction" in fields else None,
    )


def _optional_file(fields: Mapping[str, Place], key: str) -> ManifestFile | None:
    return read_manifest_file(fields[key]) if key in fields else None


def _roms(place: Place) -> tuple[ManifestFile, ...]:
    """Read option ROMs; the hypervisor asks for each by its name, so it would load one of two."""
    roms = tuple(read_manifest_file(each) for each in place.items(MAX_ROMS))
    if len({rom.path.rpartition("/")[2] for rom in roms}) != len(roms):
        place.refuse("two ROMs have one name")
    return roms


def _disk(place: Place) -> Disk:
    kind = DiskKind(
        place.at(place.typed(dict).get("kind"), "kind").one_of(*(kind.value for kind in DiskKind))
    )
    own = {DiskKind.IMAGE: ("file",), DiskKind.VERITY: ("path", "root_hash"),
           DiskKind.FS_VERITY: ("path", "digest"), DiskKind.DATA: ("path",)}  # fmt: skip
    fields = place.fields(("id", "kind", *own[kind]))
    file = _optional_file(fields, "file")
    fields["id"].text(MAX_DISK_ID)
    return Disk(
        id=fields["id"].name(),
        kind=kind,
        path=file.path if file is not None else read_relative_path(fields["path"]),
        file=file,
        root_hash=fields["root_hash"].hexadecimal(SHA256_SIZE) if "root_hash" in fields else None,
        digest=fields["digest"].hexadecimal(SHA256_SIZE) if "digest" in fields else None,
    )


def _require_root_hash(disk: Disk, boot: DirectBoot | UefiBoot, place: Place) -> None:
    """Refuse a verity disk whose root hash no measured command line names: nothing would check it.

    A command line within a UKI or on a measured disk is looked for there before each launch.
    """
    if disk.root_hash is None or boot.command_line is None:
        return
    words = boot.command_line.split()
    for option in ROOT_HASH_OPTIONS:
        given = [word for word in words if word.startswith(option)]
        if f"{option}{disk.root_hash.hex()}" in given[-1:]:  # a later one overrides
            return
    place.refuse(f"the command line has no {ROOT_HASH}... of disk {disk.id}, or another after it")


def _machine(place: Place) -> Machine:
    fields = place.fields(("type", "cpu", "cpus", "memory_mib"))
    cpu = fields["cpu"].text()
    if not _CPU.fullmatch(cpu):
        fields["cpu"].refuse("not a CPU model with options")
    return Machine(
        type=fields["type"].one_of("q35"),
        cpu=cpu,
        cpus=fields["cpus"].integer(1, MAX_CPUS),
        memory_mib=fields["memory_mib"].integer(16, MAX_MEMORY_MIB),
    )
