"""Libraries for tests: small files, a source, a key, a signed manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.builder.library import Trust
from tandem.evidence.envelope import PrivateKey, key_id, seal_envelope
from tandem.evidence.manifest import FORMAT, PAYLOAD_TYPE

BZIMAGE = bytes(0x202) + b"HdrS" + bytes(512)
FILES = {
    "kernel": BZIMAGE,
    "initrd": b"initrd",
    "firmware": b"firmware",
    "kvmvapic.bin": b"one rom",
    "linuxboot_dma.bin": b"another rom",
}


def new_key() -> PrivateKey:
    return Ed25519PrivateKey.generate()


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def file(directory: Path, name: str) -> dict[str, Any]:
    content = (directory / name).read_bytes()
    return {
        "path": name,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sha384": hashlib.sha384(content).hexdigest(),
    }


def guest(directory: Path, **changes: Any) -> dict[str, Any]:
    boot = {
        "method": "direct",
        "kernel": file(directory, "kernel"),
        "initrd": file(directory, "initrd"),
        "firmware": file(directory, "firmware"),
        "roms": [file(directory, name) for name in ("kvmvapic.bin", "linuxboot_dma.bin")],
        "command_line": "console=ttyS0 quiet",
        "platform_auth": "firmware",
    }
    entry = {
        "kind": "on-request",
        "hypervisor": "qemu",
        "group": "default",
        "vtpm": "persistent",
        "boot": boot | {key: changes.pop(key) for key in list(changes) if key in boot},
        "disks": [],
        "machine": {"type": "q35", "cpu": "max", "cpus": 1, "memory_mib": 256},
    }
    return entry | changes


def write_files(directory: Path) -> None:
    for name, content in FILES.items():
        (directory / name).write_bytes(content)


def trust(*keys: PrivateKey, threshold: int = 1) -> Trust:
    return Trust(keys=tuple(key.public_key() for key in keys), threshold=threshold)


def sign(
    directory: Path, key: PrivateKey, entries: dict[str, Any], version: int = 1, **changes: Any
) -> Path:
    document = {
        "format": FORMAT,
        "name": "main",
        "version": version,
        "signers": {"key_ids": [key_id(key.public_key())], "threshold": 1},
        "entries": entries,
    }
    path = directory / "library.dsse.json"
    path.write_bytes(seal_envelope(json.dumps(document | changes).encode(), PAYLOAD_TYPE, key))
    return path
