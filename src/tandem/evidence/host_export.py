"""Host export: what a host says of itself to whoever wants to enrol it.

The quote of an enrolment is what signs it (`enrolment`); alone it is signed by nobody.  JSON,
`tandem-host-export-1`; binary values in lower-case hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tandem.evidence.certificates import MAX_CERTIFICATE, Certificate, parse_certificate
from tandem.evidence.strict_json import Place, parse_json
from tandem.evidence.tpm_types import MAX_PUBLIC, Public, parse_public

FORMAT: Final = "tandem-host-export-1"
MAX_EXPORT: Final = 1024 * 1024
MAX_GROUPS: Final = 256
MAX_CHAIN: Final = 8  # certificates that a host brings beside its EK's
MAX_EPOCH: Final = (1 << 48) - 1


@dataclass(frozen=True, kw_only=True)
class HostExport:
    """A host's keys; `authorities` is the CA certificate of each group of vTPMs."""

    ptpm: str  # a device path, or "embedded"
    hardware_root: bool  # what the host claims
    ek: Public
    ek_certificate: Certificate | None
    ek_chain: tuple[Certificate, ...]  # intermediate CAs that the TPM brings along
    ak: Public
    authorities: Mapping[str, Certificate]
    epoch: int  # 1 at first, one more after each restore of a backup


def parse_host_export(data: bytes) -> HostExport:
    """Read an export, or refuse it and name the place that is wrong."""
    root = parse_json(data, "host export", "TDM-HOST-EXPORT-BAD", MAX_EXPORT)
    required = ("format", "ptpm", "hardware_root", "ek", "ek_chain", "ak", "authorities", "epoch")
    fields = root.fields(required, ("ek_certificate",))
    fields["format"].one_of(FORMAT)
    return HostExport(
        ptpm=fields["ptpm"].text(256),
        hardware_root=fields["hardware_root"].typed(bool),
        ek=read_public(fields["ek"]),
        ek_certificate=_optional_certificate(fields.get("ek_certificate")),
        ek_chain=tuple(
            parse_certificate(each.some_hexadecimal(MAX_CERTIFICATE))
            for each in fields["ek_chain"].items(MAX_CHAIN)
        ),
        ak=read_public(fields["ak"]),
        authorities=read_authorities(fields["authorities"]),
        epoch=fields["epoch"].integer(1, MAX_EPOCH),
    )


def write_host_export(
    *,
    ptpm: str,
    hardware_root: bool,
    ek: bytes,
    ek_certificate: bytes,
    ek_chain: Sequence[bytes],
    ak: bytes,
    authorities: Mapping[str, bytes],
    epoch: int,
) -> bytes:
    """Write an export; keys are TPMT_PUBLIC, certificates DER (empty where there is none)."""
    fields: dict[str, object] = {
        "format": FORMAT,
        "ptpm": ptpm,
        "hardware_root": hardware_root,
        "ek": ek.hex(),
        "ek_chain": [each.hex() for each in ek_chain],
        "ak": ak.hex(),
        "authorities": {group: der.hex() for group, der in authorities.items()},
        "epoch": epoch,
    }
    if ek_certificate:
        fields["ek_certificate"] = ek_certificate.hex()
    return json.dumps(fields, indent=1, sort_keys=True).encode("ascii") + b"\n"


def read_public(place: Place) -> Public:
    """Read a TPMT_PUBLIC in hexadecimal."""
    return parse_public(place.some_hexadecimal(MAX_PUBLIC))


def read_authorities(place: Place) -> dict[str, Certificate]:
    """Read the CA certificate of each group."""
    members = dict(place.members())
    if not 0 < len(members) <= MAX_GROUPS:
        place.refuse(f"{len(members)} groups, not 1 to {MAX_GROUPS}")
    return {
        group: parse_certificate(each.some_hexadecimal(MAX_CERTIFICATE))
        for group, each in members.items()
    }


def _optional_certificate(place: Place | None) -> Certificate | None:
    return None if place is None else parse_certificate(place.some_hexadecimal(MAX_CERTIFICATE))
