"""Deep quote: request, what each signature covers, and the answer, read and written.

A guest asks with a nonce, user data and a selection.  The vTPM quotes with `qualifying_data`; the
Manager makes `leaf_hash` for the record that it holds for that connection, batches leaves into one
tree and lets the physical TPM quote the root.  Nothing here signs or trusts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tandem.errors import UntrustedInput
from tandem.evidence import canonical, record_fields
from tandem.evidence.cursor import Cursor
from tandem.values import LAUNCH_REGISTERS, SHA256_SIZE

NONCE_SIZE: Final = 32
SALT_SIZE: Final = 32
MAX_USER_DATA: Final = 64
SELECT_SIZE: Final = 3  # sizeofSelect for 24 PCRs (PC Client PTP)
REQUEST_SIZE: Final = NONCE_SIZE + SELECT_SIZE + 1 + MAX_USER_DATA  # of the request index, 100

VTPM_QUOTE_TAG: Final = b"TANDEM-VQUOTE-2\0"
LEAF_TAG: Final = b"TANDEM-DQLEAF-1\0"

FORMAT: Final = "tandem-deep-quote-2"
ANSWER_MAGIC: Final = b"TDQ1"
ANSWER_HEADER_SIZE: Final = 12
MAX_ANSWER: Final = 8 * 2048 - ANSWER_HEADER_SIZE  # eight NV indices, less the header
STATUS_OK: Final = 0


@dataclass(frozen=True, kw_only=True)
class DeepQuoteRequest:
    """What a guest asks for; `registers` are PCR indices of the SHA-256 bank, sorted."""

    nonce: bytes
    user_data: bytes = b""
    registers: tuple[int, ...] = LAUNCH_REGISTERS

    def encode(self) -> bytes:
        """Write nonce, PCR bitmap as in TPMS_PCR_SELECTION, length of the user data, user data."""
        bitmap = sum(1 << register for register in self.registers).to_bytes(SELECT_SIZE, "little")
        return self.nonce + bitmap + bytes([len(self.user_data)]) + self.user_data


def parse_request(data: bytes) -> DeepQuoteRequest:
    """Read a request; bytes after the user data are what an earlier, longer one left there.

    The launch registers are always added, whatever the guest selects.
    """
    cursor = Cursor(data, "deep quote request")
    nonce = cursor.take(NONCE_SIZE, "nonce")
    bitmap = int.from_bytes(cursor.take(SELECT_SIZE, "PCR selection"), "little")
    size = cursor.u8("user data length")
    if size > MAX_USER_DATA:
        raise cursor.broken(f"user data of {size} bytes, more than {MAX_USER_DATA}")
    user_data = cursor.take(size, "user data")
    chosen = {index for index in range(8 * SELECT_SIZE) if bitmap >> index & 1}
    registers = tuple(sorted(chosen | set(LAUNCH_REGISTERS)))
    return DeepQuoteRequest(nonce=nonce, user_data=user_data, registers=registers)


def qualifying_data(
    nonce: bytes, user_data: bytes, record_digest: bytes, authorizations: bytes
) -> bytes:
    """Give what the vTPM's quote is qualified with.

    Who asked, for what channel, in which pair, and how the vTPM's authorizations stood by then.
    """
    digests = (hashlib.sha256(each).digest() for each in (user_data, authorizations))
    user_digest, authorizations_digest = digests
    whole = VTPM_QUOTE_TAG + nonce + user_digest + record_digest + authorizations_digest
    return hashlib.sha256(whole).digest()


def quote_digest(attest: bytes, signature: bytes) -> bytes:
    """Give the digest that stands for a vTPM quote in its leaf."""
    return hashlib.sha256(attest + signature).digest()


def leaf_hash(salt: bytes, record_digest: bytes, vtpm_quote_digest: bytes) -> bytes:
    """Give the leaf of one deep quote, as a leaf of RFC 6962 is hashed (prefix 0x00)."""
    return hashlib.sha256(b"\x00" + LEAF_TAG + salt + record_digest + vtpm_quote_digest).digest()


@dataclass(frozen=True, kw_only=True)
class DeepQuote:
    """The answer: everything a verifier needs, TPM structures as the TPM marshalled them."""

    format: str
    nonce: bytes
    user_data: bytes
    vtpm_attest: bytes  # TPMS_ATTEST
    vtpm_signature: bytes  # TPMT_SIGNATURE
    vtpm_pcrs: dict[int, bytes]  # SHA-256 bank, the quoted registers
    authorizations: bytes  # Authorizations, encoded
    record: bytes  # PairRecord, encoded
    salt: bytes
    leaf_index: int
    tree_size: int
    path: tuple[bytes, ...]
    ptpm_attest: bytes
    ptpm_signature: bytes
    ptpm_pcrs: dict[int, bytes]
    ak_certificate: bytes  # X.509 DER, of the vTPM's AK
    issuer_certificate: bytes  # X.509 DER, of the group's issuing key that signed it
    host_ak: bytes  # TPMT_PUBLIC of the key that made the pTPM's quote
    launch_log: bytes  # TCG crypto-agile event log

    def encode(self) -> bytes:
        """Write the answer as canonical CBOR."""
        return canonical.encode(record_fields.to_map(self))


def parse_deep_quote(data: bytes) -> DeepQuote:
    """Read an answer; sizes are checked here, signatures and digests by the verifier."""
    fields = canonical.decode_map(data, "deep quote", MAX_ANSWER)
    quote = record_fields.from_map(DeepQuote, fields, "deep quote")
    fixed = (quote.salt, quote.nonce, *quote.path)
    registers = (*quote.vtpm_pcrs.values(), *quote.ptpm_pcrs.values())
    if quote.format != FORMAT or any(len(each) != SHA256_SIZE for each in (*fixed, *registers)):
        raise UntrustedInput(
            "TDM-DEEP-QUOTE-BAD",
            "deep quote: unknown format, or a digest of a wrong size",
            hint="the evidence is of another version or damaged",
            offset=0,
        )
    return quote


def frame_answer(answer: bytes, status: int = STATUS_OK) -> bytes:
    """Write what the answer indices hold: magic, status (a TPM_RC), length, answer."""
    return ANSWER_MAGIC + status.to_bytes(4) + len(answer).to_bytes(4) + answer


def unframe_answer(data: bytes) -> bytes:
    """Read the answer indices, concatenated; what follows the stated length is not read."""
    cursor = Cursor(data, "deep quote answer")
    if cursor.take(len(ANSWER_MAGIC), "magic") != ANSWER_MAGIC:
        raise cursor.broken("does not begin with TDQ1")
    status = cursor.u32("status")
    answer = cursor.take(cursor.u32("length"), "answer")
    if status != STATUS_OK:
        raise UntrustedInput(
            "TDM-DEEP-QUOTE-NOT-MADE",
            f"the vTPM answered with status {status:#x} instead of a deep quote: {answer[:200]!a}",
            hint="write a well-formed request to the mailbox and read the answer again",
            offset=len(ANSWER_MAGIC),
        )
    return answer
