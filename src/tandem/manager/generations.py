"""Generations of the master key: each is sealed anew, with a recovery key and an anchor of its own.

A generation stands in one of two slots of the pTPM, so the next one is whole before the identity's
file is renamed into place, which is the switch; the former one is then taken away.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tandem.evidence.host_approval import (
    HOST_SUBJECT,
    Approval,
    PrivateKey,
    PublicKey,
    approve,
    authorized_policy,
)
from tandem.evidence.host_state import HostState, StateDocument
from tandem.manager.identity import FORMAT, Identity, proven
from tandem.manager.ptpm import KeyBlob, Ptpm
from tandem.manager.recovery import new_recovery_key, wrap
from tandem.values import Secret

MASTER_KEY_SIZE: Final = 32


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Where a generation stands, and whose approvals open it."""

    number: int
    slot: int
    epoch: int
    device: str  # as the identity names the pTPM
    registers: tuple[int, ...]
    approval_key: PrivateKey | PublicKey  # the private one approves states at once

    @property
    def approver(self) -> PublicKey:
        """The public half."""
        key = self.approval_key
        return key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key

    def approvals(self, *states: HostState) -> list[Approval]:
        """Approve states with the private key, where it is here."""
        if not isinstance(self.approval_key, ec.EllipticCurvePrivateKey):
            return []
        return [
            approve(
                StateDocument(subject=HOST_SUBJECT, generation=self.number, state=state),
                self.approval_key,
            )
            for state in states
        ]


@dataclass(frozen=True, kw_only=True)
class HostKeys:
    """The pTPM's keys that outlive a generation; their authValues are of the present one."""

    root_name: bytes
    ak: KeyBlob


def new_master_key() -> Secret:
    """Make a master key."""
    return Secret(os.urandom(MASTER_KEY_SIZE))


def seal_generation(
    ptpm: Ptpm, terms: Terms, keys: HostKeys, master: Secret
) -> tuple[Identity, Secret]:
    """Seal a master key, and give the identity that opens it and its recovery key."""
    policy = authorized_policy(terms.approver, HOST_SUBJECT, terms.number)
    sealed = ptpm.seal(master, policy=policy)
    recovery = new_recovery_key()
    identity = Identity(
        format=FORMAT,
        generation=terms.number,
        slot=terms.slot,
        epoch=terms.epoch,
        ptpm=terms.device,
        registers=tuple(sorted(terms.registers)),
        approval_key=terms.approver.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        root_name=keys.root_name,
        ak_public=keys.ak.public,
        ak_private=keys.ak.private,
        sealed_public=sealed.public,
        sealed_private=sealed.private,
        recovery=wrap(master, recovery, terms.number),
        proof=b"",
    )
    return proven(identity, master), recovery
