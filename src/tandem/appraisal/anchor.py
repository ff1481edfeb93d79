"""Trust anchor: what a verifier keeps of a host that it enrolled, signed by the verifier.

A DSSE envelope over JSON.  A quote proves nothing unless the AK that made it stands in one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tandem.evidence.certificates import Certificate, issued_by, same_key
from tandem.evidence.envelope import PrivateKey, PublicKey, open_envelope, seal_envelope
from tandem.evidence.host_export import HostExport, read_authorities, read_public
from tandem.evidence.strict_json import parse_json
from tandem.evidence.tpm_types import Public

PAYLOAD_TYPE: Final = "application/vnd.tandem.trust-anchor+json"
FORMAT: Final = "tandem-trust-anchor-1"
MAX_ANCHOR: Final = 256 * 1024
MAX_TIME: Final = 1 << 40


class Standing(StrEnum):
    """What is known of a host's EK."""

    VENDOR = "vendor"  # its certificate leads to a TPM vendor's root that the verifier gave
    UNPROVEN = "unproven"  # the host says that its TPM is hardware; nothing shows it
    EMBEDDED = "embedded"  # a software TPM, as the host says itself


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One enrolled host."""

    standing: Standing
    ek: Public
    ak: Public
    authorities: Mapping[str, Certificate]  # by group
    enrolled_at: int  # Unix seconds


def anchor_of(
    export: HostExport, vendor_roots: Sequence[Certificate], enrolled_at: int
) -> dict[str, object]:
    """Give the fields of the anchor of a host whose credential was checked."""
    return {
        "format": FORMAT,
        "standing": str(standing_of(export, vendor_roots)),
        "ek": export.ek.encoded.hex(),
        "ak": export.ak.encoded.hex(),
        "authorities": {group: each.der.hex() for group, each in export.authorities.items()},
        "enrolled_at": enrolled_at,
    }


def standing_of(export: HostExport, vendor_roots: Sequence[Certificate]) -> Standing:
    """Judge the EK by its certificate, not by what the host says, where there is a root for it."""
    if not export.hardware_root:
        return Standing.EMBEDDED
    certificate = export.ek_certificate
    if certificate is None or certificate.key is None:
        return Standing.UNPROVEN
    vouched = any(issued_by(certificate, root) for root in vendor_roots)
    its_own = same_key(certificate.key, export.ek.key)
    return Standing.VENDOR if vouched and its_own else Standing.UNPROVEN


def seal_anchor(fields: Mapping[str, object], key: PrivateKey) -> bytes:
    """Sign an anchor."""
    return seal_envelope(json.dumps(fields, sort_keys=True).encode("ascii"), PAYLOAD_TYPE, key)


def open_anchor(data: bytes, key: PublicKey) -> Anchor:
    """Read an anchor that `key` signed."""
    payload = open_envelope(data, PAYLOAD_TYPE, [key]).payload
    root = parse_json(payload, "trust anchor", "TDM-ANCHOR-BAD", MAX_ANCHOR)
    names = ("format", "standing", "ek", "ak", "authorities", "enrolled_at")
    fields = root.fields(names)
    fields["format"].one_of(FORMAT)
    return Anchor(
        standing=Standing(fields["standing"].one_of(*Standing)),
        ek=read_public(fields["ek"]),
        ak=read_public(fields["ak"]),
        authorities=read_authorities(fields["authorities"]),
        enrolled_at=fields["enrolled_at"].integer(0, MAX_TIME),
    )
