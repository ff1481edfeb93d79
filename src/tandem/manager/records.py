"""What the Manager keeps: one record for the host, one for each group, one for each vTPM."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, TypeVar

from tandem.evidence import canonical, record_fields
from tandem.evidence.signers import Signers

Kind = TypeVar("Kind")
MAX_RECORD: Final = 64 * 1024
HOST: Final = "host"
GROUPS: Final = "group/"  # what the ids of all groups begin with
VTPMS: Final = "vtpm/"
LIBRARIES: Final = "library/"
DEFAULT_GROUP: Final = "default"
WEAR_BUDGET: Final = 100_000  # NV writes after which the first TPMs are seen to fail
# What the host's own group may use: as much as there is.
VTPMS_MOST: Final = 1_000_000
RUNNING_MOST: Final = 1_000_000
COMMITS_MOST: Final = 1_000_000  # states a second
AK_SERIALS_MOST: Final = 32  # a guest that starts every minute would fill its record in a day


@dataclass(frozen=True, kw_only=True)
class HostRecord:
    """The host's identity as `host init` found it."""

    ek: bytes  # TPMT_PUBLIC
    ek_certificate: bytes  # DER, empty where the pTPM has none
    ek_chain: tuple[bytes, ...]  # its CAs (DER), where the pTPM brings them
    epoch: int  # 1 at first, one more after each restore of a backup
    rollback_window: int  # seconds of commits that an older store may undo; 0: none (strict)
    wear_budget: int  # writes that the pTPM's anchor may take in its life
    ticket_key: bytes  # of the tickets by which pairs rejoin a Manager started again


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """A group of vTPMs: who speaks for it, what it may use, and its keys in the pTPM."""

    authority: bytes  # the tenant's public key (SubjectPublicKeyInfo, DER); empty: the host's own
    key: bytes  # of its records, where it is the host's own group; empty where it is sealed
    signers: tuple[str, ...]  # key ids of libraries that it starts from; empty: all the host trusts
    ca_public: bytes  # TPM2B_PUBLIC and TPM2B_PRIVATE, below the Manager's root key
    ca_private: bytes
    ca_certificate: bytes  # DER
    generation: int  # of the approvals that open it; of the master key, where it is the host's own
    sealed_public: bytes  # the group's key, sealed to the host states that were approved
    sealed_private: bytes
    approvals: tuple[bytes, ...]  # host states, each signed by `authority`
    vtpms_most: int
    running_most: int
    commits_most: int  # states a second
    crl_number: int  # of the newest revocation list


@dataclass(frozen=True, kw_only=True)
class VtpmRecord:
    """A persistent vTPM: whose it is, its key, and the newest state that it may open."""

    vtpm_id: bytes
    guest: str
    group: str
    signers: tuple[str, ...]  # key ids, as the library names them that it was last launched from
    threshold: int  # how many of them sign any library that it is launched from next
    key: bytes  # 32 bytes, for its life: what its authorizations are derived from
    state_key: bytes  # AES-256, of the newest state; empty before the first
    launch_key: bytes  # AES-256, of the states that the newest launch writes
    ek_name: bytes  # of the RSA EK that was certified; empty before
    ek_serials: tuple[bytes, ...]  # of its EK certificates, to be revoked one day
    ak_serials: dict[bytes, int]  # of the newest AK certificates, with the Unix time of their end
    launches: int
    state_version: int  # 0 before the first state
    state_digest: bytes


@dataclass(frozen=True, kw_only=True)
class LibraryRecord:
    """The highest version of a library that `threshold` of these keys have signed."""

    signers: tuple[str, ...]  # key ids, in order
    threshold: int
    version: int
    digest: bytes  # of that version


@dataclass(frozen=True, kw_only=True)
class TombstoneRecord:
    """A vTPM that is no more: destroyed, or made anew under the same name."""

    vtpm: str
    successor: bytes  # id of the vTPM that has its name now; empty where it was destroyed
    at: int  # Unix time
    ek_serials: tuple[bytes, ...]
    ak_serials: dict[bytes, int]


def group_id(name: str) -> str:
    """Give the id of a group's record."""
    return f"{GROUPS}{name}"


def vtpm_id(group: str, name: str) -> str:
    """Give the id of a vTPM's record."""
    return f"{VTPMS}{group}/{name}"


def library_id(name: str, signers: Signers) -> str:
    """Give the id of what is known of a library as these sign it."""
    text = "\n".join((*signers.key_ids, str(signers.threshold)))
    return f"{library_prefix(name)}{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def library_prefix(name: str) -> str:
    """Give what the ids of all records of a library's name begin with."""
    return f"{LIBRARIES}{name}/"


def tombstone_id(group: str, vtpm: bytes) -> str:
    """Give the id of the record of a vTPM that is no more, by the vTPM's own id."""
    return f"{tombstone_prefix(group)}{vtpm.hex()}"


def tombstone_prefix(group: str) -> str:
    """Give what the ids of all tombstones of a group begin with."""
    return f"tombstone/{group}/"


def encode(
    record: HostRecord | GroupRecord | VtpmRecord | LibraryRecord | TombstoneRecord,
) -> bytes:
    """Write a record's content."""
    return canonical.encode(record_fields.to_map(record))


def decode(kind: type[Kind], content: bytes) -> Kind:
    """Read a record's content; it was sealed by the Manager itself."""
    fields = canonical.decode_map(content, kind.__name__, MAX_RECORD)
    return record_fields.from_map(kind, fields, kind.__name__)
