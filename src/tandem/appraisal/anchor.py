"""Trust anchor: what a verifier keeps of a host that it enrolled, signed by the verifier.

A DSSE envelope over JSON.  A quote proves nothing unless the AK that made it stands in one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from tandem.appraisal.certificate_path import find_ek_path
from tandem.errors import Refused
from tandem.evidence.attest import Quote
from tandem.evidence.certificate_extensions import TpmModel, read_extensions
from tandem.evidence.certificates import Certificate, same_key
from tandem.evidence.envelope import PrivateKey, PublicKey, open_envelope, seal_envelope
from tandem.evidence.host_export import MAX_EPOCH, HostExport, read_authorities, read_public
from tandem.evidence.pcr_values import read_pcrs
from tandem.evidence.strict_json import Place, parse_json
from tandem.evidence.tpm_types import Public

PAYLOAD_TYPE: Final = "application/vnd.tandem.trust-anchor+json"
FORMAT: Final = "tandem-trust-anchor-1"
MAX_ANCHOR: Final = 1024 * 1024
MAX_TIME: Final = 1 << 40
MAX_U32: Final = (1 << 32) - 1
MAX_U64: Final = (1 << 64) - 1
MAX_MODEL: Final = 128


class Standing(StrEnum):
    """What is known of a host's EK."""

    VENDOR = "vendor"  # its certificate leads to a TPM vendor's root that the verifier gave
    UNPROVEN = "unproven"  # the host says that its TPM is hardware; nothing shows it
    EMBEDDED = "embedded"  # a software TPM, as the host says itself


@dataclass(frozen=True, kw_only=True)
class QuotedState:
    """What the pTPM quoted at enrolment; later quotes are compared with it."""

    pcrs: Mapping[int, bytes]  # SHA-256 bank, the registers that deep quotes hold
    clock: int  # milliseconds
    reset_count: int
    restart_count: int
    firmware_version: int


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One enrolled host."""

    standing: Standing
    tpm: TpmModel | None  # as the vendor certified it
    ek: Public
    ak: Public
    authorities: Mapping[str, Certificate]  # by group
    state: QuotedState
    epoch: int
    enrolled_at: int  # Unix seconds


def quoted_state(quote: Quote, pcrs: Mapping[int, bytes]) -> QuotedState:
    """Give the state that a checked enrolment quote proves; `pcrs` are the values it is over."""
    return QuotedState(
        pcrs=pcrs,
        clock=quote.clock,
        reset_count=quote.reset_count,
        restart_count=quote.restart_count,
        firmware_version=quote.firmware_version,
    )


def anchor_of(
    export: HostExport, standing: Standing, state: QuotedState, enrolled_at: int
) -> dict[str, object]:
    """Give the fields of the anchor of a host whose proof was checked."""
    fields: dict[str, object] = {
        "format": FORMAT,
        "standing": str(standing),
        "ek": export.ek.encoded.hex(),
        "ak": export.ak.encoded.hex(),
        "authorities": {group: each.der.hex() for group, each in export.authorities.items()},
        "state": {
            "pcrs": {str(index): value.hex() for index, value in state.pcrs.items()},
            "clock": state.clock,
            "reset_count": state.reset_count,
            "restart_count": state.restart_count,
            "firmware_version": state.firmware_version,
        },
        "epoch": export.epoch,
        "enrolled_at": enrolled_at,
    }
    tpm = certified_tpm(export) if standing is Standing.VENDOR else None
    if tpm is not None:
        fields["tpm"] = {
            "manufacturer": tpm.manufacturer,
            "model": tpm.model,
            "version": tpm.version,
        }
    return fields


def certified_tpm(export: HostExport) -> TpmModel | None:
    """Give the TPM that the host's EK certificate names, if it has one that does."""
    certificate = export.ek_certificate
    return None if certificate is None else read_extensions(certificate).tpm


def standing_of(
    export: HostExport,
    intermediates: Sequence[Certificate],
    roots: Sequence[Certificate],
    at: datetime,
) -> Standing:
    """Judge the EK by its certificate, not by what the host says, where roots are given for it.

    With roots, a host whose EK does not lead to one is refused, and what is wrong is named.
    """
    if not roots:
        return Standing.UNPROVEN if export.hardware_root else Standing.EMBEDDED
    problem = vendor_problem(export, intermediates, roots, at)
    if problem:
        raise Refused(
            "TDM-ENROL-EK-NOT-CERTIFIED",
            f"no given root vouches for the host's EK: {problem}",
            hint="give the vendor's certificates with --ek-root and --ek-intermediate; without "
            "--ek-root the host is enrolled, and each verdict says that it has no proven hardware",
        )
    return Standing.VENDOR


def vendor_problem(
    export: HostExport,
    intermediates: Sequence[Certificate],
    roots: Sequence[Certificate],
    at: datetime,
) -> str:
    """Say why the EK is not known to be of a vendor's TPM; empty where it is."""
    certificate = export.ek_certificate
    if not export.hardware_root:
        return "the host says itself that its TPM is software"
    if certificate is None:
        return "the TPM brings no EK certificate"
    if certificate.key is None or not same_key(certificate.key, export.ek.key):
        return "the EK certificate is for another key"
    return find_ek_path(certificate, [*intermediates, *export.ek_chain], roots, at).problem


def seal_anchor(fields: Mapping[str, object], key: PrivateKey) -> bytes:
    """Sign an anchor."""
    return seal_envelope(json.dumps(fields, sort_keys=True).encode("ascii"), PAYLOAD_TYPE, key)


def open_anchor(data: bytes, key: PublicKey) -> Anchor:
    """Read an anchor that `key` signed."""
    payload = open_envelope(data, PAYLOAD_TYPE, [key]).payload
    root = parse_json(payload, "trust anchor", "TDM-ANCHOR-BAD", MAX_ANCHOR)
    names = ("format", "standing", "ek", "ak", "authorities", "state", "epoch", "enrolled_at")
    fields = root.fields(names, ("tpm",))
    fields["format"].one_of(FORMAT)
    return Anchor(
        standing=Standing(fields["standing"].one_of(*Standing)),
        tpm=_read_tpm(fields["tpm"]) if "tpm" in fields else None,
        ek=read_public(fields["ek"]),
        ak=read_public(fields["ak"]),
        authorities=read_authorities(fields["authorities"]),
        state=_read_state(fields["state"]),
        epoch=fields["epoch"].integer(1, MAX_EPOCH),
        enrolled_at=fields["enrolled_at"].integer(0, MAX_TIME),
    )


def _read_tpm(place: Place) -> TpmModel:
    fields = place.fields(("manufacturer", "model", "version"))
    texts = {name: each.typed(str)[:MAX_MODEL] for name, each in fields.items()}
    return TpmModel(**texts)


def _read_state(place: Place) -> QuotedState:
    counts = ("reset_count", "restart_count")
    fields = place.fields(("pcrs", "clock", "firmware_version", *counts))
    return QuotedState(
        pcrs=read_pcrs(fields["pcrs"]),
        clock=fields["clock"].integer(0, MAX_U64),
        reset_count=fields["reset_count"].integer(0, MAX_U32),
        restart_count=fields["restart_count"].integer(0, MAX_U32),
        firmware_version=fields["firmware_version"].integer(0, MAX_U64),
    )
