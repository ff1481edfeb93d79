"""The host's identity on disk: the sealed master key, and which pTPM and approvals open it.

Nothing in it is secret: each blob opens in its own pTPM alone, and the master key only in a host
state that was approved, or with the recovery key.  A proof under the master key binds all of it
together, so that nobody exchanges the approval key and waits for the next generation.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tandem.errors import HostError, Refused, UntrustedInput
from tandem.evidence import canonical, record_fields
from tandem.evidence.host_approval import PublicKey
from tandem.evidence.host_state import MAX_GENERATION
from tandem.evidence.pcr_values import REGISTERS
from tandem.manager.tpm_templates import CHAIN_INDICES, KeyBlob
from tandem.values import Secret

FORMAT: Final = "tandem-host-identity-2"
MAX_IDENTITY: Final = 64 * 1024
EMBEDDED: Final = "embedded"
SIMULATOR: Final = "simulator:"  # and the path of a software TPM's socket
AUTH_NAMES: Final = ("ak", "chain")
AUTH_SIZE: Final = 32
FIRST_STORE: Final = "store.sqlite"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What `host init` leaves for every later start, and each new master key replaces."""

    format: str
    generation: int  # of the master key
    slot: int  # of the pTPM, where this generation's AK and anchor stand
    epoch: int  # as in the host's record: the next restore goes on from it, store or no store
    ptpm: str  # a device path, EMBEDDED, or SIMULATOR and a socket's path
    registers: tuple[int, ...]  # sealed to; every deep quote quotes them too
    approval_key: bytes  # SubjectPublicKeyInfo (DER), P-256
    root_name: bytes  # of the pTPM's key that is above all others
    ak_public: bytes
    ak_private: bytes
    sealed_public: bytes
    sealed_private: bytes
    recovery: bytes  # the master key, wrapped under the recovery key
    proof: bytes  # HMAC of all this under the master key

    @property
    def ak(self) -> KeyBlob:
        """The host's attestation key."""
        return KeyBlob(public=self.ak_public, private=self.ak_private)

    @property
    def sealed(self) -> KeyBlob:
        """The master key."""
        return KeyBlob(public=self.sealed_public, private=self.sealed_private)

    @property
    def approver(self) -> PublicKey:
        """The key whose approvals open the master key."""
        key = serialization.load_der_public_key(self.approval_key)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("checked when the identity was read")
        return key

    @property
    def store(self) -> str:
        """The store's file name: each generation has its own, so that one rename switches."""
        return FIRST_STORE if self.generation == 1 else f"store.{self.generation}.sqlite"


def proven(identity: Identity, master: Secret) -> Identity:
    """Give the identity with its proof."""
    return replace(identity, proof=_proof(identity, master))


def check_proof(identity: Identity, master: Secret) -> None:
    """Refuse an identity that was not written by whoever had its master key."""
    if not hmac.compare_digest(identity.proof, _proof(identity, master)):
        raise Refused(
            "TDM-HOST-IDENTITY-EXCHANGED",
            "the host's identity was changed by somebody who does not have its master key",
            hint="put the newest identity back, and find out who writes to the host's directory",
        )


def write_identity(path: Path, identity: Identity) -> None:
    """Write the identity, whole or not at all, and make it durable."""
    place_identity(path, identity)
    sync_directory(path.parent)


def place_identity(path: Path, identity: Identity) -> None:
    """Put the identity in place by one rename; whoever does so makes the directory durable.

    Errors: HostError, and the former one is in place.
    """
    beside = path.with_suffix(".new")
    try:
        with beside.open("wb") as file:
            owner = path.parent.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(encode_identity(identity))
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)  # what it names is durable before it is
        beside.rename(path)
    except OSError as error:
        raise HostError(
            "TDM-HOST-IDENTITY-NOT-WRITTEN",
            f"the host's identity {path} cannot be written: {error.strerror}",
            hint="make room on the disk of the host's directory; nothing was changed",
        ) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        return parse_identity(content)
    except UntrustedInput as error:
        raise _unreadable(path, error.problem) from error


def encode_identity(identity: Identity) -> bytes:
    """Write an identity as it is on disk."""
    return canonical.encode(record_fields.to_map(identity))


def parse_identity(content: bytes) -> Identity:
    """Read an identity that may be anything; who wrote it, `check_proof` tells."""
    fields = canonical.decode_map(content, "identity", MAX_IDENTITY)
    identity = record_fields.from_map(Identity, fields, "identity")
    problem = _problem(identity)
    if problem:
        raise UntrustedInput(
            "TDM-HOST-IDENTITY-BAD",
            f"the host's identity has {problem}",
            hint="take another copy of it",
            offset=0,
        )
    return identity


def _problem(identity: Identity) -> str:
    """Say what no identity that was written here has; empty for nothing."""
    if identity.format != FORMAT:
        return f"the format {identity.format[:40]!a}, not {FORMAT}"
    if not 0 < identity.generation <= MAX_GENERATION or identity.slot >= len(CHAIN_INDICES):
        return "a generation or a slot that no host has"
    if not identity.ptpm.isprintable():
        return "a pTPM whose name is no path"
    if not identity.registers or not set(identity.registers) <= set(REGISTERS):
        return "registers that no TPM has"
    try:
        key = serialization.load_der_public_key(identity.approval_key)
    except (ValueError, UnsupportedAlgorithm):
        return "an approval key that is none"
    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    return "" if is_p256 else "an approval key that is not of P-256"


def _proof(identity: Identity, master: Secret) -> bytes:
    fields = canonical.encode(record_fields.to_map(replace(identity, proof=b"")))
    return hmac.digest(derive(master, "identity proof").reveal(), fields, "sha256")


def _unreadable(path: Path, problem: str | None) -> HostError:
    return HostError(
        "TDM-HOST-IDENTITY-DAMAGED",
        f"the host's identity {path} cannot be read: {problem}",
        hint="put the newest copy of this file back, or bring a backup with `tandem host restore`",
    )


def derived_auths(master: Secret) -> dict[str, Secret]:
    """Derive the authValues of the Manager's objects in the pTPM."""
    return {name: derive(master, f"ptpm auth {name}") for name in AUTH_NAMES}


def derive(master: Secret, purpose: str) -> Secret:
    """Derive one secret from the master key (HKDF-Expand with SHA-256, RFC 5869, 2.3)."""
    expand = HKDFExpand(algorithm=hashes.SHA256(), length=AUTH_SIZE, info=purpose.encode())
    return Secret(expand.derive(master.reveal()))
