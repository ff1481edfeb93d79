"""Source of a library (TOML): paths and wishes in, the manifest with every digest out."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any, Final

from tandem.builder.inputs import digest
from tandem.builder.running_host import running_build_id
from tandem.errors import HostError, UsageError
from tandem.evidence.manifest import FORMAT
from tandem.hypervisor.qemu_args import LOADED_ROMS

ROMS: Final = "/usr/share/qemu"
FIRMWARE: Final = "/usr/share/seabios/bios-256k.bin"
BLOBS: Final = "blobs"
RUNNING: Final = "running"
MACHINE: Final = {"type": "q35", "cpu": "max", "cpus": 1, "memory_mib": 256}
TEMPLATE: Final = f"""\
# The library of domains: what this host may build, and nothing else.
# Sign it after each change:  tandem library sign --key KEY
# Paths are relative to this file; a file from elsewhere is copied below {BLOBS}/.

[entries.demo]
kind = "on-request"            # a guest, built with a vTPM of its own on each start
# vtpm = "persistent"          # keeps keys and NV over launches; "ephemeral": new each time
# group = "default"            # vTPMs that share one CA
kernel = "/boot/vmlinuz"
initrd = "initramfs.cpio"
command_line = "console=ttyS0 quiet"
# firmware = "{FIRMWARE}"
# roms = [{", ".join(f'"{ROMS}/{name}"' for name in LOADED_ROMS)}]

[entries.demo.machine]
# type = "q35"
# cpu = "max"
cpus = 1
memory_mib = 256

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


def manifest(source: dict[str, Any], directory: Path, version: int) -> dict[str, Any]:
    """Give the manifest's document; what is wrong in it is for `parse_manifest` to say."""
    unknown = sorted(source.keys() - {"entries"})
    entries = source.get("entries")
    if unknown or not isinstance(entries, dict):
        raise UsageError(
            "TDM-LIBRARY-SOURCE-BAD",
            f"the source has {unknown[0]!a}" if unknown else "the source has no [entries.NAME]",
            hint="see `tandem library init` for a source to start from",
        )
    return {
        "format": FORMAT,
        "version": version,
        "entries": {name: _entry(entry, directory) for name, entry in entries.items()},
    }


def _entry(entry: Any, directory: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    done = dict(entry)
    if done.setdefault("kind", "on-request") == "on-request":
        done = {
            "hypervisor": "qemu",
            "group": "default",
            "vtpm": "persistent",
            "firmware": FIRMWARE,
            "roms": [f"{ROMS}/{name}" for name in LOADED_ROMS],
            **done,
        }
        if isinstance(done.setdefault("machine", {}), dict):
            done["machine"] = {**MACHINE, **done["machine"]}
    if done.get("build_id") == RUNNING:
        done["build_id"] = _running_build_id()
    for key in ("kernel", "initrd", "firmware", "roms", "files"):
        if key in done:
            done[key] = _files(done[key], directory)
    return done


def _running_build_id() -> str:
    found = running_build_id()
    if not found:
        raise HostError(
            "TDM-LIBRARY-NO-BUILD-ID",
            "the running kernel shows no build id",
            hint="write the build id of the host's kernel into the source, in hexadecimal",
        )
    return found.hex()


def _files(value: Any, directory: Path) -> Any:
    if isinstance(value, list):
        return [_files(each, directory) for each in value]
    return _file(directory / value, directory) if isinstance(value, str) else value


def _file(path: Path, directory: Path) -> dict[str, object]:
    """Digest a file; one from outside of the directory is copied into it first."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a plain file")
            blob = digest(descriptor)
        finally:
            os.close(descriptor)
        inside = path.resolve().is_relative_to(directory.resolve())
        if not inside:
            copy = directory / BLOBS / blob.sha256.hex()[:16] / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            path = copy
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise HostError(
            "TDM-LIBRARY-FILE",
            f"cannot take {str(path)!r} into the library: {reason}",
            hint="correct the path in the source, install the package that has the file, or make "
            "room below the library",
        ) from error
    return {
        "path": str((path.resolve() if inside else path).relative_to(
            directory.resolve() if inside else directory)),
        "size": blob.size,
        "sha256": blob.sha256.hex(),
        "sha384": blob.sha384.hex(),
    }  # fmt: skip
