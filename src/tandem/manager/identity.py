"""The host's identity on disk: key blobs, the sealed master key, and which pTPM they belong to.

Nothing in it is secret: each blob opens in its own pTPM alone, and the master key only while the
host's PCRs are those that it was sealed to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tandem.errors import HostError, UntrustedInput
from tandem.evidence import canonical, record_fields
from tandem.manager.ptpm import KeyBlob
from tandem.values import Secret

FORMAT: Final = "tandem-host-identity-1"
MAX_IDENTITY: Final = 64 * 1024
EMBEDDED: Final = "embedded"
AUTH_NAMES: Final = ("ak", "ca", "chain")
AUTH_SIZE: Final = 32


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What `host init` leaves for every later start."""

    format: str
    ptpm: str  # a device path, or EMBEDDED
    pcrs: dict[int, bytes]  # what the master key is sealed to, SHA-256 bank
    ak_public: bytes
    ak_private: bytes
    ca_public: bytes
    ca_private: bytes
    sealed_public: bytes
    sealed_private: bytes

    @property
    def registers(self) -> tuple[int, ...]:
        """The registers sealed to; every deep quote quotes them too."""
        return tuple(sorted(self.pcrs))

    @property
    def ak(self) -> KeyBlob:
        """The host's attestation key."""
        return KeyBlob(public=self.ak_public, private=self.ak_private)

    @property
    def ca(self) -> KeyBlob:
        """The signing key of the default group's CA."""
        return KeyBlob(public=self.ca_public, private=self.ca_private)

    @property
    def sealed(self) -> KeyBlob:
        """The master key."""
        return KeyBlob(public=self.sealed_public, private=self.sealed_private)


def write_identity(path: Path, identity: Identity) -> None:
    """Write the identity, whole or not at all."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(canonical.encode(record_fields.to_map(identity)))
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def read_identity(path: Path) -> Identity:
    """Read the identity that `host init` wrote."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise HostError(
            "TDM-HOST-NOT-INITIALISED",
            f"{path.parent.parent} is no host's directory: {path} is missing",
            hint="make the host with `tandem host init`",
        ) from None
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    try:
        fields = canonical.decode_map(content, "identity", MAX_IDENTITY)
        identity = record_fields.from_map(Identity, fields, "identity")
    except UntrustedInput as error:
        raise _unreadable(path, error.problem) from error
    if identity.format != FORMAT:
        raise _unreadable(path, f"format {identity.format[:40]!a}, not {FORMAT}")
    return identity


def _unreadable(path: Path, problem: str | None) -> HostError:
    return HostError(
        "TDM-HOST-IDENTITY-DAMAGED",
        f"the host's identity {path} cannot be read: {problem}",
        hint="restore this file from a backup, whatever its age: it never changes",
    )


def derived_auths(master: Secret) -> dict[str, Secret]:
    """Derive the authValues of the Manager's objects in the pTPM."""
    return {name: derive(master, f"ptpm auth {name}") for name in AUTH_NAMES}


def derive(master: Secret, purpose: str) -> Secret:
    """Derive one secret from the master key (HKDF-Expand with SHA-256, RFC 5869, 2.3)."""
    expand = HKDFExpand(algorithm=hashes.SHA256(), length=AUTH_SIZE, info=purpose.encode())
    return Secret(expand.derive(master.reveal()))
