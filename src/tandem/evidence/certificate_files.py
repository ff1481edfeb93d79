"""Certificates one after another: as DER in a TPM's NV indices, as PEM or DER in a file."""

from __future__ import annotations

from itertools import islice
from typing import Final

from tandem.evidence.certificates import (
    MAX_CERTIFICATE,
    PEM_BLOCK,
    Certificate,
    parse_certificate,
    parse_pem_certificate,
)

MAX_CERTIFICATES: Final = 64  # in one file
_LONG_SEQUENCE: Final = b"\x30\x82"  # DER: a SEQUENCE of 256 to 65,535 bytes
_HEAD_SIZE: Final = 4


def der_parts(data: bytes) -> tuple[bytes, ...]:
    """Part certificates that follow each other; what comes after the last one is padding."""
    parts: list[bytes] = []
    at = 0
    while data[at : at + 2] == _LONG_SEQUENCE and len(parts) < MAX_CERTIFICATES:
        end = at + _HEAD_SIZE + int.from_bytes(data[at + 2 : at + _HEAD_SIZE])
        if end > len(data) or end - at > MAX_CERTIFICATE:
            break
        parts.append(data[at:end])
        at = end
    return tuple(parts)


def parse_certificates(data: bytes) -> tuple[Certificate, ...]:
    """Read a file of certificates: any number, in PEM or in DER."""
    blocks = PEM_BLOCK.finditer(data[: MAX_CERTIFICATES * 2 * MAX_CERTIFICATE])
    found = tuple(parse_pem_certificate(each[0]) for each in islice(blocks, MAX_CERTIFICATES))
    if found:
        return found
    return tuple(parse_certificate(part) for part in der_parts(data)) or (parse_certificate(data),)
