"""Source of a library (TOML): paths and wishes in, the manifest with every digest out."""

from __future__ import annotations

from typing import Any, Final

from tandem.builder.running_host import running_build_id
from tandem.cli.library_files import BLOBS, LibraryFiles
from tandem.cli.library_terms import TEMPLATE as TERMS
from tandem.cli.library_variables import REMOVABLE, take_variables
from tandem.errors import HostError
from tandem.evidence.guest_entry import MAX_DISKS
from tandem.evidence.manifest import FORMAT, MAX_FILES
from tandem.evidence.strict_json import Place
from tandem.hypervisor.qemu_args import loaded_roms

ROMS: Final = "/usr/share/qemu"
FIRMWARE: Final = "/usr/share/seabios/bios-256k.bin"
RUNNING: Final = "running"
OVMF: Final = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_SECURE: Final = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
OVMF_VARIABLES: Final = "/usr/share/OVMF/OVMF_VARS_4M.fd"
OVMF_VARIABLES_MS: Final = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"  # with Microsoft's keys
DIRECT: Final[dict[str, Any]] = {"firmware": FIRMWARE, "platform_auth": "firmware"}
UEFI: Final[dict[str, Any]] = {"keep_variables": False, "secure_boot": False}
BOOT: Final = (  # keys of an entry that say how it boots
    *("kernel", "initrd", "command_line", "firmware", "roms", "platform_auth"),
    *("variables", "keep_variables", "secure_boot"),
)
FILES: Final = ("kernel", "initrd", "firmware", "roms", "files")
MACHINE: Final = {"type": "q35", "cpu": "max", "cpus": 1, "memory_mib": 256}
TEMPLATE: Final = f"""\
# The library of domains: what this host may build, and nothing else.
# Sign it after each change:  tandem library sign --key KEY
# Paths are relative to this file; a file from elsewhere is copied below {BLOBS}/.

{TERMS}
[entries.demo]
kind = "on-request"            # a guest, built with a vTPM of its own on each start
# vtpm = "persistent"          # keeps keys and NV over launches; "ephemeral": new each time
# group = "default"            # vTPMs that share one CA
kernel = "/boot/vmlinuz"
initrd = "initramfs.cpio"
command_line = "console=ttyS0 quiet"
# firmware = "{FIRMWARE}"
# roms = [{", ".join(f'"{ROMS}/{name}"' for name in loaded_roms(kernel=True))}]
# platform_auth = "firmware"     # "vtpm" for firmware that leaves the TPM alone
# lockout_auth = "guest"         # "strict": set before its system runs, and known to nobody
# debugger = false               # true: root here may read and change the guest; verifiers see it

[entries.demo.machine]
# type = "q35"
# cpu = "max"
cpus = 1
memory_mib = 256

# A guest with UEFI firmware, which boots from a disk:
# [entries.uefi]
# boot = "uefi"
# secure_boot = true             # with the keys in the store of variables
# variables = "{OVMF_VARIABLES_MS}"
# keep_variables = false         # true: the guest's own from its first launch on
# boot_entries = ['{REMOVABLE}']  # preset in the variables, tried in this order
# [[entries.uefi.disks]]
# id = "system"
# kind = "image"                 # measured as a whole, read-only; "verity": what its root hash
# path = "system.raw"            # vouches for; "data": nothing, read and written
# [[entries.uefi.disks]]
# id = "scratch"
# kind = "data"
# path = "scratch.raw"

# A part of the host itself, checked before each start:
# [entries.manager]
# kind = "build-once"
# role = "manager"
# description = "the TPM Manager"
# files = ["..."]

# This host, as the launch of its own vTPM should measure it (tandem host vtpm):
# [entries.host]
# kind = "build-once"
# role = "host"
# kernel = "/boot/vmlinuz-6.1.0-56-amd64"
# initrd = "/boot/initrd.img-6.1.0-56-amd64"
# command_line = "BOOT_IMAGE=/boot/vmlinuz-6.1.0-56-amd64 root=/dev/sda1 quiet"
# build_id = "{RUNNING}"         # of the kernel that runs here now; or its number in hexadecimal
# firmware_version = "..."     # as `tandem host vtpm status` shows it
"""


def manifest(source: Place, files: LibraryFiles, version: int) -> dict[str, object]:
    """Give the manifest's entries and version; what else is wrong is for `parse_manifest` to say.

    A path that is none, or names no file to be had, is refused with its place in the source.
    """
    entries = source.fields(("entries",))["entries"].typed(dict)
    below = source.at(entries, "entries")
    return {
        "format": FORMAT,
        "version": version,
        "entries": {name: _entry(below.at(entry, name), files) for name, entry in entries.items()},
    }


def _entry(place: Place, files: LibraryFiles) -> dict[str, Any]:
    done = dict(place.typed(dict))
    if done.setdefault("kind", "on-request") == "on-request":
        return _guest(place.replaced(done), files)
    if done.get("build_id") == RUNNING:
        done["build_id"] = _running_build_id()
    return _with_files(place, done, files)


def _guest(place: Place, files: LibraryFiles) -> dict[str, Any]:
    """Fill in what a guest has unless its entry says otherwise, and put together how it boots."""
    done = {
        "hypervisor": "qemu",
        "group": "default",
        "vtpm": "persistent",
        "disks": [],
        **place.typed(dict),
    }
    method = done.pop("boot", "direct")
    known = DIRECT if method == "direct" else UEFI
    kernel = "kernel" in done
    boot = {"method": method, **known, **{key: done.pop(key) for key in BOOT if key in done}}
    if method == "uefi":
        secure = boot["secure_boot"] is True
        boot.setdefault("firmware", OVMF_SECURE if secure else OVMF)
        boot.setdefault("variables", OVMF_VARIABLES_MS if secure else OVMF_VARIABLES)
        programs = place.at(done.pop("boot_entries", [] if kernel else [REMOVABLE]), "boot_entries")
        variables = place.at(boot["variables"], "variables")
        boot["variables"] = take_variables(variables, programs, files)
    boot.setdefault("roms", [f"{ROMS}/{name}" for name in loaded_roms(kernel=kernel)])
    done["boot"] = _with_files(place, boot, files)
    if isinstance(done["disks"], list):
        disks = place.at(done["disks"], "disks")
        done["disks"] = [_disk(each, files) for each in disks.items(MAX_DISKS)]
    if isinstance(done.setdefault("machine", {}), dict):
        done["machine"] = {**MACHINE, **done["machine"]}
    return done


def _disk(place: Place, files: LibraryFiles) -> dict[str, Any]:
    """Digest the file of a disk whose whole content is measured."""
    disk = place.typed(dict)
    if disk.get("kind") != "image" or "path" not in disk:
        return disk
    rest = {key: value for key, value in disk.items() if key != "path"}
    return {**rest, "file": files.take(place.at(disk["path"], "path"))}


def _with_files(place: Place, fields: dict[str, Any], files: LibraryFiles) -> dict[str, Any]:
    """Put the files themselves in place of their paths."""
    return {
        key: _files(place.at(value, key), files) if key in FILES else value
        for key, value in fields.items()
    }


def _files(place: Place, files: LibraryFiles) -> object:
    if isinstance(place.value, list):
        return [files.take(each) for each in place.items(MAX_FILES)]
    return files.take(place)


def _running_build_id() -> str:
    found = running_build_id()
    if not found:
        raise HostError(
            "TDM-LIBRARY-NO-BUILD-ID",
            "the running kernel shows no build id",
            hint="write the build id of the host's kernel into the source, in hexadecimal",
        )
    return found.hex()
