"""What the command line may ask the Manager about groups and their vTPMs.

Part of the vocabulary of `manager_rpc`.  What changes anything is signed by whoever may change it:
an approval carries its own signature, everything else is an `administration` action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class AskGroups:
    """Ask for the names of the host's groups that come after a name, in order."""

    after: str


@dataclass(frozen=True, kw_only=True)
class AskVtpms:
    """Ask for the names of a group's persistent vTPMs that come after a name, in order."""

    group: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Names:
    """Some names, and whether there are more."""

    names: tuple[str, ...]
    more: bool


@dataclass(frozen=True, kw_only=True)
class AskGroup:
    """Ask about one group."""

    group: str


@dataclass(frozen=True, kw_only=True)
class GroupShown:
    """One group: who speaks for it, what it may use and uses, and its CA certificate (DER)."""

    group: str
    is_open: bool
    closed: str  # why it is not open; empty where it is
    own: bool  # its administrator is the host's own
    authority: bytes  # the administrator's public key: SubjectPublicKeyInfo, DER
    signers: tuple[str, ...]
    generation: int
    approvals: int
    vtpms: int
    running: int
    vtpms_most: int
    running_most: int
    commits_most: int
    crl_number: int
    ca_certificate: bytes


@dataclass(frozen=True, kw_only=True)
class AskRevocations:
    """Ask for a group's revocation list (DER) from `offset` on; at 0 it is brought up to date."""

    group: str
    offset: int


@dataclass(frozen=True, kw_only=True)
class RevocationsPage:
    """A part of a group's revocation list."""

    total: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class AskVtpm:
    """Ask about one persistent vTPM."""

    vtpm: str


@dataclass(frozen=True, kw_only=True)
class VtpmShown:
    """One persistent vTPM; serial numbers are big-endian bytes."""

    vtpm: str
    group: str
    guest: str
    vtpm_id: bytes
    launches: int
    state_version: int
    running: bool
    signers: tuple[str, ...]  # key ids
    threshold: int  # how many of them sign any library that it is launched from next
    ek_serials: tuple[bytes, ...]
    ak_serials: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class ApproveGroup:
    """Bring in a host state that a group's administrator signed (`evidence.host_approval`).

    One of the generation after the present has the group's key sealed anew: no earlier approval
    opens it again.
    """

    group: str
    generation: int
    banks: dict[str, dict[int, bytes]]
    signature: bytes  # DER


@dataclass(frozen=True, kw_only=True)
class GroupApproved:
    """The state may open the group."""

    generation: int
    approvals: int  # that count now


@dataclass(frozen=True, kw_only=True)
class AskChallenge:
    """Ask for the challenge that the next action on this connection is signed with."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """A challenge (32 bytes, good once), and the Name of the host's AK, which is signed, too."""

    challenge: bytes
    host: bytes


@dataclass(frozen=True, kw_only=True)
class Administer:
    """Do what an administrator signed (`wire.administration`)."""

    action: bytes
    signature: bytes  # DER


@dataclass(frozen=True, kw_only=True)
class Administered:
    """It is done, and durable."""


GROUP_REQUESTS: Final = (
    *(AskGroups, AskVtpms, AskGroup, AskVtpm, AskRevocations),
    *(ApproveGroup, AskChallenge, Administer),
)
GROUP_ANSWERS: Final = (
    *(Names, GroupShown, VtpmShown, RevocationsPage),
    *(GroupApproved, Challenge, Administered),
)
