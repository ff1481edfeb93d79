"""Actions of administrators: what each says, and the bytes that its signature covers.

An action is signed whole, together with a challenge that the Manager made for this one and with the
host's name, so that none is done twice, or on another host.  The host's administrator signs with
the host's approval key, a group's with the group's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tandem.errors import Refused, UntrustedInput
from tandem.wire.messages import MessageSet

CHALLENGE_SIZE: Final = 32
NAME_SIZE: Final = 34  # of the host's AK: algorithm and SHA-256
ACTION_LIMIT: Final = 3500  # bytes; fits one message of the Manager's with its signature
TAG: Final = b"TANDEM-ADMIN-1\0\0"


@dataclass(frozen=True, kw_only=True)
class AddGroup:
    """Found a group whose administrator has the key `authority` (SubjectPublicKeyInfo, DER)."""

    group: str
    authority: bytes
    signers: tuple[str, ...]
    vtpms_most: int
    running_most: int
    commits_most: int


@dataclass(frozen=True, kw_only=True)
class RemoveGroup:
    """End a group; `vtpms` says that it may have vTPMs, which end with it."""

    group: str
    vtpms: bool


@dataclass(frozen=True, kw_only=True)
class SetLimits:
    """Say what a group may use; `commits_most` is states a second."""

    group: str
    vtpms_most: int
    running_most: int
    commits_most: int


@dataclass(frozen=True, kw_only=True)
class ForgetLibrary:
    """Forget which versions of a library there were: any version may be the next one."""

    library: str


@dataclass(frozen=True, kw_only=True)
class AllowLibraries:
    """Say whose libraries a group starts guests from, by key id; none: all that the host trusts."""

    group: str
    signers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DestroyVtpm:
    """End a vTPM for good, and revoke its certificates."""

    group: str
    vtpm: str


@dataclass(frozen=True, kw_only=True)
class MakeVtpmAnew:
    """Give up a vTPM's lost state: its certificates are revoked, its name gets a new vTPM."""

    group: str
    vtpm: str


HostAction = AddGroup | RemoveGroup | SetLimits | ForgetLibrary
GroupAction = AllowLibraries | DestroyVtpm | MakeVtpmAnew
Action = HostAction | GroupAction
ACTIONS: Final = MessageSet(
    "administrator's action",
    AddGroup,
    RemoveGroup,
    SetLimits,
    ForgetLibrary,
    AllowLibraries,
    DestroyVtpm,
    MakeVtpmAnew,
    limit=ACTION_LIMIT,
)


def signed_bytes(challenge: bytes, host: bytes, action: bytes) -> bytes:
    """Give what is signed; the first two parts are of fixed size, so nothing passes for another.

    Who signs has them from whoever answers at the Manager's socket.
    """
    if (len(challenge), len(host)) != (CHALLENGE_SIZE, NAME_SIZE):
        raise UntrustedInput(
            "TDM-ADMIN-CHALLENGE-BAD",
            f"a challenge of {len(challenge)} bytes for a host's name of {len(host)}, not "
            f"{CHALLENGE_SIZE} and {NAME_SIZE}",
            hint="both sides must be of one version: restart the host's services",
            offset=0,
        )
    return TAG + challenge + host + action


def sign_action(
    key: ec.EllipticCurvePrivateKey, challenge: bytes, host: bytes, action: bytes
) -> bytes:
    """Sign an encoded action: ECDSA with SHA-256, DER."""
    return key.sign(signed_bytes(challenge, host, action), ec.ECDSA(hashes.SHA256()))


def check_action(
    key: ec.EllipticCurvePublicKey, signature: bytes, challenge: bytes, host: bytes, action: bytes
) -> None:
    """Refuse an action that another key signed, for another challenge, or that was changed."""
    try:
        key.verify(signature, signed_bytes(challenge, host, action), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(
            "TDM-ADMIN-NOT-SIGNED",
            "the request does not carry the signature of whoever may make it",
            hint="groups and their limits are the host's approval key's; a group's vTPMs and "
            "libraries are its own key's: name it with --key",
        ) from None
