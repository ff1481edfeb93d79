"""Secrets of one vTPM, derived from the key that the Manager keeps for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tandem.values import Secret

AUTH_SIZE: Final = 32
AK_LABEL: Final = b"TANDEM-VTPM-AK-AUTH-1"
MAILBOX_LABEL: Final = b"TANDEM-VTPM-MAILBOX-AUTH-1"


@dataclass(frozen=True, kw_only=True)
class VtpmKeys:
    """The authorizations that keep the guest out."""

    ak_auth: Secret
    mailbox_auth: Secret


def derive_keys(key: Secret) -> VtpmKeys:
    """Derive a vTPM's secrets (HKDF-Expand, RFC 5869: the key is uniform already)."""
    return VtpmKeys(ak_auth=_expand(key, AK_LABEL), mailbox_auth=_expand(key, MAILBOX_LABEL))


def _expand(key: Secret, label: bytes) -> Secret:
    kdf = HKDFExpand(algorithm=hashes.SHA256(), length=AUTH_SIZE, info=label)
    return Secret(kdf.derive(key.reveal()))
