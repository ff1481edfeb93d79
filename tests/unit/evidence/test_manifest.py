"""Library manifests: read strictly, and every refusal names the place."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.manifest import GuestEntry, OnceEntry, parse_manifest

FILE = {"path": "boot/vmlinuz", "size": 3, "sha256": "ab" * 32, "sha384": "cd" * 48}
GUEST: dict[str, Any] = {
    "kind": "on-request",
    "hypervisor": "qemu",
    "group": "default",
    "vtpm": "ephemeral",
    "kernel": FILE,
    "initrd": FILE,
    "command_line": "quiet",
    "firmware": FILE,
    "roms": [FILE],
    "machine": {"type": "q35", "cpu": "max", "cpus": 1, "memory_mib": 256},
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
    "version": 2,
    "entries": {
        "web": GUEST,
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
    assert web.kernel.sha256 == b"\xab" * 32
    assert web.files == (web.firmware, web.kernel, web.initrd, *web.roms)
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
        ("entries.Web", GUEST, "$.entries"),
        ("entries.web.kind", "sometimes", "$.entries.web.kind"),
        ("entries.web.command_line", "a\nb", "$.entries.web.command_line"),
        ("entries.web.command_line", "x" * 2048, "$.entries.web.command_line"),
        ("entries.web.kernel.path", "../etc/shadow", "$.entries.web.kernel.path"),
        ("entries.web.kernel.path", "/etc/shadow", "$.entries.web.kernel.path"),
        ("entries.web.kernel.path", "a//b", "$.entries.web.kernel.path"),
        ("entries.web.kernel.sha256", "AB" * 32, "$.entries.web.kernel.sha256"),
        ("entries.web.kernel.size", 0, "$.entries.web.kernel.size"),
        ("entries.mgr.kernel", FILE, "$.entries.mgr"),  # a manager has none
        ("entries.host.build_id", "AB", "$.entries.host.build_id"),
        ("entries.host.build_id", "", "$.entries.host.build_id"),
        ("entries.host.group", "A B", "$.entries.host.group"),
        ("entries.host.machine", {}, "$.entries.host"),
        ("entries.web.machine.cpu", "-device", "$.entries.web.machine.cpu"),
        ("entries.web.machine.type", "microvm", "$.entries.web.machine.type"),
        ("entries.web.machine.cpus", 256, "$.entries.web.machine.cpus"),
        ("entries.web.roms", [FILE] * 17, "$.entries.web.roms"),
        ("entries.web.vtpm", "none", "$.entries.web.vtpm"),
        ("entries.web.disk", FILE, "$.entries.web"),
        ("entries.mgr.role", "root", "$.entries.mgr.role"),
    ],
)
def test_a_wrong_part_is_refused_by_its_place(path: str, value: object, place: str) -> None:
    # Given a manifest with one part wrong
    manifest = copy.deepcopy(MANIFEST)
    at: Any = manifest
    *steps, last = path.split(".")
    for step in steps:
        at = at[step]
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
