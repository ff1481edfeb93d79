"""Pair record: what the Manager vouches for about one launch of a guest with its vTPM.

Canonical CBOR, written and kept by the Manager alone.  Its SHA-256 goes into the vTPM's quote and
into the leaf that the physical TPM signs, so neither can be read without it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tandem.errors import UntrustedInput
from tandem.evidence import canonical, record_fields
from tandem.values import PAIR_ID_SIZE, SHA256_SIZE

FORMAT: Final = "tandem-pair-record-1"
MAX_RECORD: Final = 2048
NAME_SIZE: Final = 2 + SHA256_SIZE  # TPM2B_NAME of a SHA-256 object: algorithm and digest


@dataclass(frozen=True, kw_only=True)
class PairRecord:
    """One launch; names are TPM Names (TPM 2.0 Part 1, 16), times are Unix seconds."""

    format: str
    pair_id: bytes
    vtpm_id: bytes  # 16 bytes, for the life of the persistent vTPM
    vtpm: str
    guest: str
    group: str
    launch_number: int  # of this vTPM, from 1
    launch_log_digest: bytes  # SHA-256 of the launch log's bytes
    ek_name: bytes
    ak_name: bytes
    reset_count: int  # expected in the quote's clockInfo, as restart_count
    restart_count: int
    hypervisor: str
    builder: str
    manifest_digest: bytes  # SHA-256 of the library manifest's payload
    manifest_version: int
    host_log_digest: bytes  # SHA-256 of the host's event log
    epoch: int  # of the host: 1 at first, one more after each restore of a backup
    rollback_window: int  # seconds of commits that an older store may still undo; 0: none
    started_at: int

    def encode(self) -> bytes:
        """Write the record; the same record always gives the same bytes."""
        return canonical.encode(record_fields.to_map(self))


def parse_pair_record(data: bytes) -> PairRecord:
    """Read a record, or refuse bytes that are not exactly one."""
    fields = canonical.decode_map(data, "pair record", MAX_RECORD)
    record = record_fields.from_map(PairRecord, fields, "pair record")
    sizes = {
        "pair_id": PAIR_ID_SIZE,
        "vtpm_id": PAIR_ID_SIZE,
        "launch_log_digest": SHA256_SIZE,
        "manifest_digest": SHA256_SIZE,
        "host_log_digest": SHA256_SIZE,
        "ek_name": NAME_SIZE,
        "ak_name": NAME_SIZE,
    }
    wrong = [name for name, size in sizes.items() if len(getattr(record, name)) != size]
    if record.format != FORMAT or wrong:
        raise UntrustedInput(
            "TDM-PAIR-RECORD-BAD",
            f"pair record: {'unknown format' if not wrong else f'{wrong[0]} has a wrong size'}",
            hint="the evidence is of another version or damaged",
            offset=0,
        )
    return record


def record_digest(encoded: bytes) -> bytes:
    """Give the digest that stands for the record in both quotes."""
    return hashlib.sha256(encoded).digest()
