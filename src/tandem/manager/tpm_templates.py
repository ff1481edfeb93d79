"""What the Manager's objects in a pTPM look like: templates, handles, selections.

Handles are from the ranges that are the Manager's alone (persistent 0x81015440-4F, NV
0x01800540-4F); the broker lets nobody name one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.evidence.host_approval import PublicKey, key_public
from tandem.evidence.host_state import HostState
from tandem.values import SHA256_SIZE

ROOT_HANDLE: Final = 0x81015440
AK_HANDLES: Final = (0x81015441, 0x81015442)  # of two generations while the master key changes
CHAIN_INDICES: Final = (0x01800544, 0x01800545)  # owner's NV range (Registry, 2.2.2); the same
VERSION_INDICES: Final = (0x01800546, 0x01800547)  # what is said of an older store; the same
VERSION_SIZE: Final = 16  # the version, and the writes so far
COORDINATE: Final = 32  # bytes, P-256

_BASE: Final = (
    tss.TPMA_OBJECT.FIXEDTPM
    | tss.TPMA_OBJECT.FIXEDPARENT
    | tss.TPMA_OBJECT.SENSITIVEDATAORIGIN
    | tss.TPMA_OBJECT.USERWITHAUTH
    | tss.TPMA_OBJECT.NODA
)
_STORAGE: Final = _BASE | tss.TPMA_OBJECT.RESTRICTED | tss.TPMA_OBJECT.DECRYPT
_SIGNING: Final = _BASE | tss.TPMA_OBJECT.SIGN_ENCRYPT
_SEALED: Final = tss.TPMA_OBJECT.FIXEDTPM | tss.TPMA_OBJECT.FIXEDPARENT | tss.TPMA_OBJECT.NODA
_BY_AUTH: Final = tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE | tss.TPMA_NV.NO_DA
_CHAIN: Final = (tss.TPM2_NT.EXTEND << tss.TPMA_NV.TPM2_NT_SHIFT) | _BY_AUTH
_POLICY_SECRET_ENDORSEMENT: Final = bytes.fromhex(  # EK Credential Profile 2.5, B.3: policyA
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)


@dataclass(frozen=True, kw_only=True)
class KeyBlob:
    """A key as it is kept on disk: TPM2B_PUBLIC and TPM2B_PRIVATE, useless outside this pTPM."""

    public: bytes
    private: bytes


class EkKind(Enum):
    """The EKs of the low-range templates (EK Credential Profile 2.5, B.3), by certificate index."""

    RSA_2048 = 0x01C00002
    ECC_P256 = 0x01C0000A


_EK_ALGORITHMS: Final = {EkKind.RSA_2048: "rsa2048:aes128cfb", EkKind.ECC_P256: "ecc256:aes128cfb"}


def public_area(blob: KeyBlob) -> bytes:
    """Give the TPMT_PUBLIC of a key: its TPM2B_PUBLIC without the size."""
    return blob.public[2:]


def root_template() -> tss.TPM2B_PUBLIC:
    """Give a storage primary that nobody makes again: its `unique` is random, and kept nowhere."""
    template = tss.TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=_STORAGE)
    x, y = os.urandom(COORDINATE), os.urandom(COORDINATE)
    template.publicArea.unique.ecc = tss.TPMS_ECC_POINT(x=x, y=y)
    return template


def signing_template(*, restricted: bool) -> tss.TPM2B_PUBLIC:
    """Give an ECDSA P-256 key with SHA-256; a restricted one signs what its TPM made alone."""
    attributes = _SIGNING | (tss.TPMA_OBJECT.RESTRICTED if restricted else 0)
    return tss.TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=attributes)


def sealed_template(policy: bytes) -> tss.TPM2B_PUBLIC:
    """Give sealed data that opens under a policy, and never by an authValue."""
    template = tss.TPM2B_PUBLIC.parse("keyedhash", objectAttributes=_SEALED)
    template.publicArea.authPolicy = policy
    return template


def ek_template(kind: EkKind) -> tss.TPM2B_PUBLIC:
    """Give the TCG's default template of an EK."""
    template = tss.TPM2B_PUBLIC.parse(
        _EK_ALGORITHMS[kind],
        objectAttributes=(_STORAGE & ~tss.TPMA_OBJECT.USERWITHAUTH & ~tss.TPMA_OBJECT.NODA)
        | tss.TPMA_OBJECT.ADMINWITHPOLICY,
        authPolicy=_POLICY_SECRET_ENDORSEMENT,
    )
    if kind is EkKind.RSA_2048:
        template.publicArea.unique.rsa = bytes(256)
    else:
        zeros = bytes(COORDINATE)
        template.publicArea.unique.ecc = tss.TPMS_ECC_POINT(x=zeros, y=zeros)
    return template


def chain_public(index: int) -> tss.TPM2B_NV_PUBLIC:
    """Give the NV index that anchors a store: it can be extended, and never written."""
    return _nv_public(index, _CHAIN, SHA256_SIZE)


def version_public(index: int) -> tss.TPM2B_NV_PUBLIC:
    """Give the NV index that tells a store's version; nothing is decided by it."""
    return _nv_public(index, _BY_AUTH, VERSION_SIZE)


def _nv_public(index: int, attributes: int, size: int) -> tss.TPM2B_NV_PUBLIC:
    public = tss.TPMS_NV_PUBLIC(
        nvIndex=index,
        nameAlg=tss.TPM2_ALG.SHA256,
        attributes=tss.TPMA_NV(attributes),
        dataSize=size,
    )
    return tss.TPM2B_NV_PUBLIC(nvPublic=public)


def approval_key_public(key: PublicKey) -> tss.TPM2B_PUBLIC:
    """Give an approval key as a pTPM loads it."""
    area = key_public(key)
    public, _ = tss.TPM2B_PUBLIC.unmarshal(len(area).to_bytes(2) + area)
    return public


def ecdsa_signature(numbers: tuple[int, int]) -> tss.TPMT_SIGNATURE:
    """Give an ECDSA signature with SHA-256 as a pTPM checks it."""
    r, s = (number.to_bytes(COORDINATE) for number in numbers)
    ecdsa = tss.TPMS_SIGNATURE_ECC(hash=tss.TPM2_ALG.SHA256, signatureR=r, signatureS=s)
    return tss.TPMT_SIGNATURE(sigAlg=tss.TPM2_ALG.ECDSA, signature=tss.TPMU_SIGNATURE(ecdsa=ecdsa))


def selection(registers: Iterable[int], *banks: str) -> tss.TPML_PCR_SELECTION:
    """Give a selection of the same registers in each bank."""
    numbers = ",".join(map(str, sorted(registers)))
    return tss.TPML_PCR_SELECTION.parse("+".join(f"{bank}:{numbers}" for bank in banks))


def state_selection(state: HostState) -> tss.TPML_PCR_SELECTION:
    """Give the selection of a host's state, banks in their fixed order."""
    return selection(state.registers, *sorted(state.banks))


def assigned(selections: Iterable[Any], algorithm: int) -> set[int]:
    """Give the registers that a TPM keeps in one bank (TPM2_CAP_PCRS)."""
    return {
        8 * byte + bit
        for each in selections
        if int(each.hash) == algorithm
        for byte, bits in enumerate(bytes(each.pcrSelect)[: int(each.sizeofSelect)])
        for bit in range(8)
        if bits >> bit & 1
    }
