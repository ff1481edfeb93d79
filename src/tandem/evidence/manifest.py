"""Library manifest: the guests and domains that a host may build, with the digest of every input.

It travels in a signed envelope (`envelope.py`) of type `PAYLOAD_TYPE`.  Two kinds of entry, as in
the design: `on-request` is a guest that gets a vTPM, `build-once` a part of the host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from tandem.evidence.launch import Blob
from tandem.evidence.strict_json import Place, parse_json
from tandem.values import SHA256_SIZE, SHA384_SIZE

Value = TypeVar("Value")
PAYLOAD_TYPE: Final = "application/vnd.tandem.library+json"
FORMAT: Final = "tandem-library-1"
MAX_MANIFEST: Final = 2 * 1024 * 1024
MAX_VERSION: Final = (1 << 63) - 1
MAX_ROMS: Final = 16
MAX_FILES: Final = 256
MAX_FILE_SIZE: Final = 1 << 40
MAX_COMMAND_LINE: Final = 2047  # COMMAND_LINE_SIZE of Linux on x86, less its end
MAX_MEMORY_MIB: Final = 4 * 1024 * 1024
MAX_BUILD_ID: Final = 64
MAX_FIRMWARE: Final = 256
MAX_CPUS: Final = 255  # q35 without an interrupt remapper
_CPU: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,+=-]{0,127}")
_GUEST_KEYS: Final = (
    *("kind", "hypervisor", "group", "vtpm", "kernel", "initrd", "command_line"),
    *("firmware", "roms", "machine"),
)
_HOST_KEYS: Final = (
    *("group", "kernel", "initrd", "build_id", "command_line", "firmware_version"),
)


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """A file of the library: where it is (relative to the manifest) and what it must be."""

    path: str
    size: int
    sha256: bytes
    sha384: bytes

    @property
    def blob(self) -> Blob:
        """What a launch measures of the file: everything but its path."""
        return Blob(size=self.size, sha256=self.sha256, sha384=self.sha384)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The virtual machine that an entry asks for."""

    type: str
    cpu: str
    cpus: int
    memory_mib: int


@dataclass(frozen=True, kw_only=True)
class GuestEntry:
    """An `on-request` entry: everything that a guest is built from."""

    name: str
    hypervisor: str
    group: str
    ephemeral: bool
    kernel: ManifestFile
    initrd: ManifestFile
    firmware: ManifestFile
    roms: tuple[ManifestFile, ...]
    command_line: str
    machine: Machine

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """Every input that the builder opens."""
        return (self.firmware, self.kernel, self.initrd, *self.roms)


@dataclass(frozen=True, kw_only=True)
class OnceEntry:
    """A `build-once` entry: a part of the host, by the digests of its files.

    The rest is for an entry of role `host`: what the launch of the host's own vTPM should measure.
    """

    name: str
    role: str
    description: str
    others: tuple[ManifestFile, ...]  # beside kernel and initrd
    group: str = "default"
    kernel: ManifestFile | None = None
    initrd: ManifestFile | None = None
    build_id: bytes | None = None  # of the kernel as it runs
    command_line: str | None = None
    firmware_version: str | None = None

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """Every file that the library has of this part."""
        own = (self.kernel, self.initrd)
        return (*(file for file in own if file is not None), *self.others)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A library; `digest` is the SHA-256 of the payload that was signed."""

    version: int
    entries: Mapping[str, GuestEntry | OnceEntry]
    digest: bytes


def parse_manifest(payload: bytes) -> Manifest:
    """Read a manifest, or refuse it and name the place that is wrong."""
    root = parse_json(payload, "library manifest", "TDM-MANIFEST-BAD", MAX_MANIFEST)
    fields = root.fields(("format", "version", "entries"))
    fields["format"].one_of(FORMAT)
    return Manifest(
        version=fields["version"].integer(1, MAX_VERSION),
        entries={name: _entry(name, place) for name, place in fields["entries"].members()},
        digest=hashlib.sha256(payload).digest(),
    )


def _entry(name: str, place: Place) -> GuestEntry | OnceEntry:
    kind = place.at(place.typed(dict).get("kind"), "kind").one_of("on-request", "build-once")
    return _guest(name, place) if kind == "on-request" else _once(name, place)


def _guest(name: str, place: Place) -> GuestEntry:
    fields = place.fields(_GUEST_KEYS)
    return GuestEntry(
        name=name,
        hypervisor=fields["hypervisor"].one_of("qemu"),
        group=fields["group"].name(),
        ephemeral=fields["vtpm"].one_of("persistent", "ephemeral") == "ephemeral",
        kernel=_file(fields["kernel"]),
        initrd=_file(fields["initrd"]),
        firmware=_file(fields["firmware"]),
        roms=tuple(_file(each) for each in fields["roms"].items(MAX_ROMS)),
        command_line=fields["command_line"].text(MAX_COMMAND_LINE),
        machine=_machine(fields["machine"]),
    )


def _once(name: str, place: Place) -> OnceEntry:
    role = place.at(place.typed(dict).get("role"), "role").one_of("manager", "host")
    own = _HOST_KEYS if role == "host" else ()
    fields = place.fields(("kind", "role"), ("description", "files", *own))
    return OnceEntry(
        name=name,
        role=role,
        description=_given(fields, "description", lambda each: each.text(1024), ""),
        others=_given(fields, "files", _files, ()),
        group=_given(fields, "group", Place.name, "default"),
        kernel=_given(fields, "kernel", _file, None),
        initrd=_given(fields, "initrd", _file, None),
        build_id=_given(fields, "build_id", lambda e: e.some_hexadecimal(MAX_BUILD_ID), None),
        command_line=_given(fields, "command_line", lambda e: e.text(MAX_COMMAND_LINE), None),
        firmware_version=_given(fields, "firmware_version", lambda e: e.text(MAX_FIRMWARE), None),
    )


def _given(
    fields: Mapping[str, Place], key: str, read: Callable[[Place], Value], absent: Value
) -> Value:
    """Read a field that may be left out."""
    return read(fields[key]) if key in fields else absent


def _files(place: Place) -> tuple[ManifestFile, ...]:
    return tuple(_file(each) for each in place.items(MAX_FILES))


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


def _file(place: Place) -> ManifestFile:
    fields = place.fields(("path", "size", "sha256", "sha384"))
    return ManifestFile(
        path=_relative_path(fields["path"]),
        size=fields["size"].integer(1, MAX_FILE_SIZE),
        sha256=fields["sha256"].hexadecimal(SHA256_SIZE),
        sha384=fields["sha384"].hexadecimal(SHA384_SIZE),
    )


def _relative_path(place: Place) -> str:
    path = place.text(1024)
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        place.refuse("not a plain path below the manifest's directory")
    return path
