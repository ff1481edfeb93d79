"""TPMS_ATTEST of a quote (TPM 2.0 Part 2, 10.12.12): what a TPM signs over its PCRs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.tpm_types import PcrSelection, read_pcr_selections

TPM_GENERATED_VALUE: Final = 0xFF544347  # Part 2, 6.2: no restricted key signs it for outside data
TPM_ST_ATTEST_QUOTE: Final = 0x8018
MAX_ATTEST: Final = 2048


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A quote, field by field; counts and clock are of the TPM that made it."""

    qualified_signer: bytes
    qualifying_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


def parse_quote(data: bytes) -> Quote:
    """Read a quote; another magic or another attestation type is refused by name."""
    cursor = Cursor(data, "TPMS_ATTEST")
    if cursor.left > MAX_ATTEST:
        raise cursor.broken(f"{cursor.left} bytes, more than {MAX_ATTEST}")
    magic, kind = cursor.u32("magic"), cursor.u16("type")
    if magic != TPM_GENERATED_VALUE:
        raise cursor.broken(f"magic {magic:#x}: no TPM generated this structure")
    if kind != TPM_ST_ATTEST_QUOTE:
        raise cursor.broken(f"attestation type {kind:#x} is not a quote")
    signer, qualifying = cursor.sized("qualified signer"), cursor.sized("qualifying data")
    clock, resets = cursor.u64("clock"), cursor.u32("reset count")
    restarts, safe = cursor.u32("restart count"), cursor.u8("safe")
    firmware = cursor.u64("firmware version")
    selections, digest = read_pcr_selections(cursor), cursor.sized("PCR digest")
    cursor.finish()
    return Quote(
        qualified_signer=signer,
        qualifying_data=qualifying,
        clock=clock,
        reset_count=resets,
        restart_count=restarts,
        safe=bool(safe),
        firmware_version=firmware,
        selections=selections,
        pcr_digest=digest,
    )
