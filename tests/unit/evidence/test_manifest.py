"""Library manifests: read strictly, and every refusal names the place."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.guest_entry import DirectBoot, DiskKind, GuestEntry, UefiBoot
from tandem.evidence.manifest import OnceEntry, parse_manifest

FILE = {"path": "boot/vmlinuz", "size": 3, "sha256": "ab" * 32, "sha384": "cd" * 48}
GUEST: dict[str, Any] = {
    "kind": "on-request",
    "hypervisor": "qemu",
    "group": "default",
    "vtpm": "ephemeral",
    "boot": {
        "method": "direct",
        "kernel": FILE,
        "initrd": FILE,
        "command_line": f"quiet roothash={'ef' * 32}",
        "firmware": FILE,
        "roms": [FILE],
        "platform_auth": "firmware",
    },
    "disks": [{"id": "root", "kind": "verity", "path": "root.img", "root_hash": "ef" * 32}],
    "machine": {"type": "q35", "cpu": "max", "cpus": 1, "memory_mib": 256},
}
UEFI: dict[str, Any] = GUEST | {
    "boot": {
        "method": "uefi",
        "firmware": FILE,
        "variables": FILE,
        "keep_variables": False,
        "secure_boot": True,
        "roms": [FILE],
    },
    "disks": [
        {"id": "system", "kind": "image", "file": FILE},
        {"id": "scratch", "kind": "data", "path": "scratch.img"},
    ],
}
HOST: dict[str, Any] = {
    "kind": "build-once",
    "role": "host",
    "kernel": FILE,
    "build_id": "00ff",
    "command_line": "root=/dev/sda1",
    "firmware_version": "Vendor 1.0",
}
MANIFEST: dict[str, Any] = {
    "format": "tandem-library-1",
    "name": "main",
    "version": 2,
    "signers": {"key_ids": ["ab" * 32, "cd" * 32], "threshold": 2},
    "expires": "2027-01-31T12:00:00Z",
    "entries": {
        "web": GUEST,
        "uefi": UEFI,
        "mgr": {"kind": "build-once", "role": "manager", "files": [FILE]},
        "host": HOST,
    },
}


def test_a_manifest_is_read() -> None:
    # Given a manifest of both kinds of entry
    payload = json.dumps(MANIFEST).encode()

    # When it is read
    manifest = parse_manifest(payload)

    # Then everything in it is there
    web, manager = manifest.entries["web"], manifest.entries["mgr"]
    assert manifest.version == 2
    assert manifest.digest == hashlib.sha256(payload).digest()
    assert isinstance(web, GuestEntry)
    assert web.ephemeral
    assert isinstance(web.boot, DirectBoot)
    assert web.boot.kernel.sha256 == b"\xab" * 32
    assert web.files == (web.boot.firmware, web.boot.kernel, web.boot.initrd, *web.boot.roms)
    uefi = manifest.entries["uefi"]
    assert isinstance(uefi, GuestEntry)
    assert isinstance(uefi.boot, UefiBoot)
    assert (uefi.boot.secure_boot, uefi.boot.kernel, uefi.command_line) == (True, None, None)
    assert [(disk.kind, disk.read_only) for disk in uefi.disks] == [
        (DiskKind.IMAGE, True), (DiskKind.DATA, False)
    ]  # fmt: skip
    assert uefi.files == (
        uefi.boot.firmware,
        uefi.boot.variables,
        *uefi.boot.roms,
        uefi.disks[0].file,
    )
    assert isinstance(manager, OnceEntry)
    assert manager.role == "manager"
    host = manifest.entries["host"]
    assert isinstance(host, OnceEntry)
    assert host.files == (host.kernel,)
    assert (host.build_id, host.initrd, host.group) == (b"\x00\xff", None, "default")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("version", 0, "$.version"),
        ("version", True, "$.version"),
        ("format", "tandem-library-2", "$.format"),
        ("extra", 1, "$"),
        ("name", "No Name", "$.name"),
        ("name", "a\nb", "$.name"),
        ("name", "x" * 64, "$.name"),
        ("expires", "2027-01-31", "$.expires"),
        ("expires", "2027-1-31T12:00:00Z", "$.expires"),
        ("expires", "2027-02-30T12:00:00Z", "$.expires"),
        ("expires", 1800000000, "$.expires"),
        ("signers.threshold", 0, "$.signers.threshold"),
        ("signers.threshold", 3, "$.signers.threshold"),
        ("signers.key_ids", [], "$.signers.key_ids"),
        ("signers.key_ids", ["ab" * 32, "ab" * 32], "$.signers.key_ids"),
        ("signers.key_ids", ["ab" * 31], "$.signers.key_ids.0"),
        ("signers.key_ids", [f"{n:064x}" for n in range(17)], "$.signers.key_ids"),
        ("signers.key_ids", "ab" * 32, "$.signers.key_ids"),
        ("entries.Web", GUEST, "$.entries"),
        ("entries.web.kind", "sometimes", "$.entries.web.kind"),
        ("entries.web.boot.command_line", "a\nb", "$.entries.web.boot.command_line"),
        ("entries.web.boot.command_line", "x" * 2048, "$.entries.web.boot.command_line"),
        ("entries.web.boot.kernel.path", "../etc/shadow", "$.entries.web.boot.kernel.path"),
        ("entries.web.boot.kernel.path", "/etc/shadow", "$.entries.web.boot.kernel.path"),
        ("entries.web.boot.kernel.path", "a//b", "$.entries.web.boot.kernel.path"),
        ("entries.web.boot.kernel.sha256", "AB" * 32, "$.entries.web.boot.kernel.sha256"),
        ("entries.web.boot.kernel.size", 0, "$.entries.web.boot.kernel.size"),
        ("entries.mgr.kernel", FILE, "$.entries.mgr"),  # a manager has none
        ("entries.host.build_id", "AB", "$.entries.host.build_id"),
        ("entries.host.build_id", "", "$.entries.host.build_id"),
        ("entries.host.group", "A B", "$.entries.host.group"),
        ("entries.host.machine", {}, "$.entries.host"),
        ("entries.web.machine.cpu", "-device", "$.entries.web.machine.cpu"),
        ("entries.web.machine.type", "microvm", "$.entries.web.machine.type"),
        ("entries.web.machine.cpus", 256, "$.entries.web.machine.cpus"),
        ("entries.web.boot.roms", [FILE] * 17, "$.entries.web.boot.roms"),
        (
            "entries.web.boot.roms",
            [FILE, FILE | {"path": "other/vmlinuz"}],
            "$.entries.web.boot.roms",
        ),
        ("entries.web.vtpm", "none", "$.entries.web.vtpm"),
        ("entries.web.disk", FILE, "$.entries.web"),
        ("entries.web.debugger", 1, "$.entries.web.debugger"),
        ("entries.web.boot", "direct", "$.entries.web.boot"),
        ("entries.web.boot.method", "bios", "$.entries.web.boot.method"),
        ("entries.web.boot.platform_auth", "nobody", "$.entries.web.boot.platform_auth"),
        ("entries.web.boot.command_line", "quiet", "$.entries.web.disks"),  # no root hash
        ("entries.web.boot.command_line", f"xroothash={'ef' * 32}", "$.entries.web.disks"),
        (
            "entries.web.boot.command_line",
            f"roothash={'ef' * 32} roothash={'00' * 32}",
            "$.entries.web.disks",
        ),
        ("entries.web.disks", {}, "$.entries.web.disks"),
        ("entries.web.disks.0.root_hash", "ef" * 31, "$.entries.web.disks.0.root_hash"),
        ("entries.web.disks.0.path", "/dev/sda", "$.entries.web.disks.0.path"),
        ("entries.web.disks.0.kind", "usb", "$.entries.web.disks.0.kind"),
        ("entries.web.disks.0.file", FILE, "$.entries.web.disks.0"),
        ("entries.uefi.boot.keep_variables", "no", "$.entries.uefi.boot.keep_variables"),
        ("entries.uefi.boot.secure_boot", 1, "$.entries.uefi.boot.secure_boot"),
        ("entries.uefi.boot.initrd", FILE, "$.entries.uefi.boot"),  # and no kernel
        ("entries.uefi.boot.platform_auth", "vtpm", "$.entries.uefi.boot"),
        ("entries.uefi.boot.variables", None, "$.entries.uefi.boot.variables"),
        ("entries.uefi.disks.1.id", "system", "$.entries.uefi.disks"),  # twice
        ("entries.uefi.disks", [], "$.entries.uefi.boot"),  # nothing to boot from
        (
            "entries.uefi.disks",
            [{"id": "b", "kind": "fs-verity", "path": "b.img", "digest": "ef" * 31}],
            "$.entries.uefi.disks.0.digest",
        ),
        (
            "entries.uefi.disks",
            [{"id": "b", "kind": "fs-verity", "path": "b.img"}],
            "$.entries.uefi.disks.0",
        ),
        ("entries.uefi.disks.1.id", "a\nb", "$.entries.uefi.disks.1.id"),
        ("entries.uefi.disks.1.id", "a" * 21, "$.entries.uefi.disks.1.id"),  # longer than serials
        ("entries.mgr.role", "root", "$.entries.mgr.role"),
    ],
)
def test_a_wrong_part_is_refused_by_its_place(path: str, value: object, place: str) -> None:
    # Given a manifest with one part wrong
    manifest = copy.deepcopy(MANIFEST)
    at: Any = manifest
    *steps, last = path.split(".")
    for step in steps:
        at = at[int(step) if isinstance(at, list) else step]
    at[last] = value

    # When it is read
    with pytest.raises(UntrustedInput) as caught:
        parse_manifest(json.dumps(manifest).encode())

    # Then the refusal names the place
    assert caught.value.code == "TDM-MANIFEST-BAD"
    assert f": {place}: " in caught.value.problem


def test_a_name_given_twice_is_refused() -> None:
    # Given JSON in which a key stands twice
    payload = b'{"format": "tandem-library-1", "version": 1, "version": 2, "entries": {}}'

    # When it is read
    # Then it is refused: two readers must not differ
    with pytest.raises(UntrustedInput):
        parse_manifest(payload)
