"""Approval keys as files: made where the administrator says, or one that is there used."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tandem.cli.output import PRIVATE, read_file
from tandem.errors import HostError, UsageError
from tandem.evidence.host_approval import (
    PrivateKey,
    PublicKey,
    key_public,
    parse_approval_key,
    parse_approval_private_key,
)
from tandem.settings import HostPaths

DEFAULT_FILE: Final = "tandem-approval.key"


@dataclass(frozen=True, kw_only=True)
class ApprovalKey:
    """A key, the file that it is in, and whether it was made just now."""

    key: PrivateKey | PublicKey
    path: Path
    made: bool

    @property
    def public(self) -> PublicKey:
        """The public half."""
        key = self.key
        return key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key

    @property
    def advice(self) -> str:
        """What to do with it, in words."""
        if isinstance(self.key, ec.EllipticCurvePublicKey):
            return f"approval key {self.path}: approve a state with its private half"
        word = "made in" if self.made else "used from"
        return f"approval key {word} {self.path}: move it off this host, it approves coming states"


def add_approval_key(parser: argparse.ArgumentParser) -> None:
    """Declare `--approval-key`."""
    parser.add_argument(
        "--approval-key",
        metavar="FILE",
        default=DEFAULT_FILE,
        help="key that approves host states (PEM): made there, or the private or public one that "
        f"is there; default ./{DEFAULT_FILE}",
    )


@contextmanager
def approval_key(file: str, host: Path) -> Iterator[ApprovalKey]:
    """Use the key in `file`, or make one there.

    One that was made is removed where this scope fails, unless the host is under it already.
    """
    path = Path(file).absolute()
    if path.resolve().is_relative_to(host.resolve()):
        raise UsageError(
            "TDM-APPROVAL-KEY-IN-HOST",
            f"{path} is in the host's directory: a thief of the disk would approve what he likes",
            hint="name another place with --approval-key, best a medium that you take away",
        )
    found = _make(path)
    try:
        yield found
    except BaseException:  # an interrupt, too
        if found.made and not _is_in_use(found, host):
            path.unlink(missing_ok=True)
        raise


def private_approval_key(file: str) -> PrivateKey:
    """Read the private key that approves."""
    return parse_approval_private_key(read_file(file, "the approval key"))


def _is_in_use(made: ApprovalKey, host: Path) -> bool:
    """Whether a host is sealed for a key: the work may have ended after that, before it said so."""
    from tandem.manager.identity import read_identity  # only where a Manager can be, too

    with suppress(HostError):
        identity = read_identity(HostPaths(host).identity)
        return key_public(identity.approver) == key_public(made.public)
    return False


def _make(path: Path) -> ApprovalKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    except FileExistsError:
        return ApprovalKey(key=_read(path), path=path, made=False)
    except OSError as error:
        raise _not_written(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _not_written(path, error) from error
    return ApprovalKey(key=key, path=path, made=True)


def _read(path: Path) -> PrivateKey | PublicKey:
    content = read_file(str(path), "the approval key")
    if b"PUBLIC KEY" in content:
        return parse_approval_key(content)
    return parse_approval_private_key(content)


def _not_written(path: Path, error: OSError) -> HostError:
    return HostError(
        "TDM-APPROVAL-KEY-NOT-WRITTEN",
        f"cannot write the approval key {path}: {error.strerror}",
        hint="name another file with --approval-key",
    )
