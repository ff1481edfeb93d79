"""Proof of enrolment: the credential that one TPM alone recovers, and a quote made for it.

The quote's AK is the one that the credential was made for.  Its qualifying data covers credential
and export, so what the export says (keys, groups' CAs, epoch) and what the quote says (registers,
clock, counts, firmware) is said by that TPM's Manager, now, and to this verifier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tandem.evidence.attest import MAX_ATTEST
from tandem.evidence.pcr_values import read_pcrs
from tandem.evidence.strict_json import parse_json
from tandem.evidence.tpm_types import MAX_SIGNATURE

FORMAT: Final = "tandem-proof-1"
TAG: Final = b"TANDEM-ENROLMENT-1\0"
MAX_PROOF: Final = 16 * 1024
MAX_CREDENTIAL: Final = 64


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a host answers to a challenge; TPM structures as the TPM marshalled them."""

    credential: bytes
    attest: bytes  # TPMS_ATTEST of a quote
    signature: bytes  # TPMT_SIGNATURE
    pcrs: Mapping[int, bytes]  # SHA-256 bank, the quoted registers


def enrolment_data(credential: bytes, export: bytes) -> bytes:
    """Give what the quote of an enrolment is qualified with; no deep quote's root begins so."""
    return hashlib.sha256(TAG + credential + hashlib.sha256(export).digest()).digest()


def write_proof(proof: Proof) -> bytes:
    """Write the document that a verifier enrols the host by."""
    fields = {
        "format": FORMAT,
        "credential": proof.credential.hex(),
        "attest": proof.attest.hex(),
        "signature": proof.signature.hex(),
        "pcrs": {str(index): value.hex() for index, value in sorted(proof.pcrs.items())},
    }
    return json.dumps(fields, indent=1).encode("ascii") + b"\n"


def parse_proof(data: bytes) -> Proof:
    """Read a proof; nothing in it is judged here."""
    root = parse_json(data, "proof", "TDM-PROOF-BAD", MAX_PROOF)
    fields = root.fields(("format", "credential", "attest", "signature", "pcrs"))
    fields["format"].one_of(FORMAT)
    return Proof(
        credential=fields["credential"].some_hexadecimal(MAX_CREDENTIAL),
        attest=fields["attest"].some_hexadecimal(MAX_ATTEST),
        signature=fields["signature"].some_hexadecimal(MAX_SIGNATURE),
        pcrs=read_pcrs(fields["pcrs"]),
    )
