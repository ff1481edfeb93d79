"""Host export: what a host says of itself to whoever wants to enrol it.  Signed by nobody.

JSON, `tandem-host-export-1`; binary values in lower-case hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tandem.evidence.certificates import Certificate, parse_certificate
from tandem.evidence.pcr_values import REGISTERS
from tandem.evidence.strict_json import Place, parse_json
from tandem.evidence.tpm_types import MAX_PUBLIC, Public, parse_public
from tandem.values import SHA256_SIZE

FORMAT: Final = "tandem-host-export-1"
MAX_EXPORT: Final = 64 * 1024
MAX_CERTIFICATE: Final = 16 * 1024
MAX_GROUPS: Final = 256


@dataclass(frozen=True, kw_only=True)
class HostExport:
    """A host's keys and state; `authorities` is the CA certificate of each group of vTPMs."""

    ptpm: str  # a device path, or "embedded"
    hardware_root: bool  # what the host claims
    ek: Public
    ek_certificate: Certificate | None
    ak: Public
    authorities: Mapping[str, Certificate]
    pcrs: Mapping[int, bytes]  # SHA-256 bank, the registers that deep quotes hold


def parse_host_export(data: bytes) -> HostExport:
    """Read an export, or refuse it and name the place that is wrong."""
    root = parse_json(data, "host export", "TDM-HOST-EXPORT-BAD", MAX_EXPORT)
    required = ("format", "ptpm", "hardware_root", "ek", "ak", "authorities", "pcrs")
    fields = root.fields(required, ("ek_certificate",))
    fields["format"].one_of(FORMAT)
    return HostExport(
        ptpm=fields["ptpm"].text(256),
        hardware_root=fields["hardware_root"].typed(bool),
        ek=read_public(fields["ek"]),
        ek_certificate=_optional_certificate(fields.get("ek_certificate")),
        ak=read_public(fields["ak"]),
        authorities=read_authorities(fields["authorities"]),
        pcrs=read_pcrs(fields["pcrs"]),
    )


def write_host_export(
    *,
    ptpm: str,
    hardware_root: bool,
    ek: bytes,
    ek_certificate: bytes,
    ak: bytes,
    authorities: Mapping[str, bytes],
    pcrs: Mapping[int, bytes],
) -> bytes:
    """Write an export; keys are TPMT_PUBLIC, certificates DER (empty where there is none)."""
    fields: dict[str, object] = {
        "format": FORMAT,
        "ptpm": ptpm,
        "hardware_root": hardware_root,
        "ek": ek.hex(),
        "ak": ak.hex(),
        "authorities": {group: der.hex() for group, der in authorities.items()},
        "pcrs": {str(index): value.hex() for index, value in sorted(pcrs.items())},
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


def read_pcrs(place: Place) -> dict[int, bytes]:
    """Read PCR values of the SHA-256 bank, by index."""
    known = {str(index) for index in REGISTERS}
    return {
        int(index): value.hexadecimal(SHA256_SIZE)
        for index, value in place.fields((), known).items()
    }


def _optional_certificate(place: Place | None) -> Certificate | None:
    return None if place is None else parse_certificate(place.some_hexadecimal(MAX_CERTIFICATE))
