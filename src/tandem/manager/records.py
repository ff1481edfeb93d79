"""What the Manager keeps: one record for the host, one for each group, one for each vTPM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from tandem.evidence import canonical, record_fields

Kind = TypeVar("Kind")
MAX_RECORD: Final = 64 * 1024
HOST: Final = "host"
DEFAULT_GROUP: Final = "default"


@dataclass(frozen=True, kw_only=True)
class HostRecord:
    """The host's identity as `host init` found it."""

    ek: bytes  # TPMT_PUBLIC
    ek_certificate: bytes  # DER, empty where the pTPM has none


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """A group of vTPMs and its CA certificate (DER)."""

    ca_certificate: bytes


@dataclass(frozen=True, kw_only=True)
class VtpmRecord:
    """A persistent vTPM: whose it is, its key, and the newest state that it may open."""

    vtpm_id: bytes
    guest: str
    group: str
    signers: tuple[str, ...]  # of the library that it was last launched from
    key: bytes  # AES-256
    ek_name: bytes  # of the RSA EK that was certified; empty before
    launches: int
    state_version: int  # 0 before the first state
    state_digest: bytes


def group_id(name: str) -> str:
    """Give the id of a group's record."""
    return f"group/{name}"


def vtpm_id(name: str) -> str:
    """Give the id of a vTPM's record."""
    return f"vtpm/{name}"


def encode(record: HostRecord | GroupRecord | VtpmRecord) -> bytes:
    """Write a record's content."""
    return canonical.encode(record_fields.to_map(record))


def decode(kind: type[Kind], content: bytes) -> Kind:
    """Read a record's content; it was sealed by the Manager itself."""
    fields = canonical.decode_map(content, kind.__name__, MAX_RECORD)
    return record_fields.from_map(kind, fields, kind.__name__)
