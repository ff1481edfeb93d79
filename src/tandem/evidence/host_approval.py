"""Approvals: signed host states, which a pTPM accepts in place of the one that was sealed to.

A secret is sealed once, under TPM2_PolicyAuthorize: whatever policy the approval key signed opens
it.  So the next state of the host is approved before the reboot that brings it, on any machine,
without a TPM.  JSON, `tandem-host-approval-1`; nothing in it is secret.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.host_state import (
    EMPTY_POLICY,
    MAX_GENERATION,
    HostState,
    StateDocument,
    pcr_policy,
    read_state,
    read_subject,
    state_fields,
)
from tandem.evidence.strict_json import Place, parse_json
from tandem.evidence.tpm_types import Algorithm, Attribute

FORMAT: Final = "tandem-host-approval-1"
HOST_SUBJECT: Final = "host"
MAX_APPROVAL: Final = 64 * 1024
MAX_DER_SIGNATURE: Final = 72  # ECDSA-Sig-Value of P-256
TPM_CC_POLICY_AUTHORIZE: Final = 0x0000016A  # TPM 2.0 Part 2, 6.5.2
REFERENCE_TAG: Final = b"TANDEM-APPROVAL-1\0"
_P256: Final = 0x0003
_WIDTH: Final = 32
_KEY_TEMPLATE: Final = struct.pack(
    ">HHIHHHHH",
    *(Algorithm.ECC, Algorithm.SHA256, Attribute.USER_WITH_AUTH | Attribute.SIGN),
    *(0, Algorithm.NULL),  # no authorisation policy, no symmetric algorithm
    *(Algorithm.NULL, _P256, Algorithm.NULL),  # scheme by each signature
)

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A state of the host that may open the subject's secrets of one generation."""

    subject: str  # "host" or "group/<name>"
    generation: int
    state: HostState
    signature: bytes  # ECDSA-Sig-Value (DER) over `signed_bytes`, with SHA-256

    @property
    def numbers(self) -> tuple[int, int]:
        """ECDSA's r and s."""
        return utils.decode_dss_signature(self.signature)


def key_public(key: PublicKey) -> bytes:
    """Give the TPMT_PUBLIC (Part 2, 12.2.4) under which a pTPM loads an approval key."""
    numbers = key.public_numbers()
    x, y = (axis.to_bytes(_WIDTH) for axis in (numbers.x, numbers.y))
    return _KEY_TEMPLATE + b"".join(struct.pack(">H", _WIDTH) + axis for axis in (x, y))


def key_name(key: PublicKey) -> bytes:
    """Give the Name of an approval key (Part 1, section 16)."""
    return Algorithm.SHA256.to_bytes(2) + hashlib.sha256(key_public(key)).digest()


def policy_reference(subject: str, generation: int) -> bytes:
    """Give policyRef: it parts the approvals of hosts, groups and generations from each other."""
    return hashlib.sha256(REFERENCE_TAG + subject.encode() + generation.to_bytes(8)).digest()


def authorized_policy(key: PublicKey, subject: str, generation: int) -> bytes:
    """Give the policy digest that a secret of the subject is sealed under (Part 3, 23.16)."""
    command = TPM_CC_POLICY_AUTHORIZE.to_bytes(4)
    signer = hashlib.sha256(EMPTY_POLICY + command + key_name(key)).digest()
    return hashlib.sha256(signer + policy_reference(subject, generation)).digest()


def signed_bytes(document: StateDocument) -> bytes:
    """Give what an approval signs; its SHA-256 is TPM2_PolicyAuthorize's aHash."""
    return pcr_policy(document.state) + policy_reference(document.subject, document.generation)


def approve(document: StateDocument, key: PrivateKey) -> Approval:
    """Sign a state of the host."""
    return Approval(
        subject=document.subject,
        generation=document.generation,
        state=document.state,
        signature=key.sign(signed_bytes(document), ec.ECDSA(hashes.SHA256())),
    )


def check_approval(approval: Approval, key: PublicKey) -> None:
    """Refuse an approval that another key signed, or that was changed."""
    document = StateDocument(
        subject=approval.subject, generation=approval.generation, state=approval.state
    )
    try:
        key.verify(approval.signature, signed_bytes(document), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(
            "TDM-APPROVAL-NOT-SIGNED",
            f"the approval for {approval.subject} does not carry the approval key's signature",
            hint="sign the state with the key that the host was made with",
        ) from None


def write_approval(approval: Approval) -> bytes:
    """Write an approval."""
    fields = {
        "format": FORMAT,
        "subject": approval.subject,
        "generation": approval.generation,
        "state": state_fields(approval.state),
        "signature": approval.signature.hex(),
    }
    return json.dumps(fields, indent=1, sort_keys=True).encode("ascii") + b"\n"


def parse_approval(data: bytes) -> Approval:
    """Read an approval, or refuse it and name the place that is wrong; who signed is not judged."""
    root = parse_json(data, "host approval", "TDM-APPROVAL-BAD", MAX_APPROVAL)
    fields = root.fields(("format", "subject", "generation", "state", "signature"))
    fields["format"].one_of(FORMAT)
    return Approval(
        subject=read_subject(fields["subject"]),
        generation=fields["generation"].integer(1, MAX_GENERATION),
        state=read_state(fields["state"]),
        signature=_read_signature(fields["signature"]),
    )


def parse_approval_key(pem: bytes) -> PublicKey:
    """Read the public half of an approval key: P-256, PEM, SubjectPublicKeyInfo."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _not_a_key("public")
    return key


def parse_approval_private_key(pem: bytes) -> PrivateKey:
    """Read an approval key: P-256, PEM, PKCS #8, not encrypted."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _not_a_key("private")
    return key


def _read_signature(place: Place) -> bytes:
    """Read a signature whose numbers a TPM can be told."""
    signature = place.some_hexadecimal(MAX_DER_SIGNATURE)
    try:
        numbers = utils.decode_dss_signature(signature)
    except ValueError:
        place.refuse("no ECDSA signature in DER")
    if not all(0 < number < 1 << 8 * _WIDTH for number in numbers):
        place.refuse("an ECDSA signature of numbers that are not P-256's")
    return signature


def _not_a_key(which: str) -> UntrustedInput:
    return UntrustedInput(
        "TDM-APPROVAL-KEY-BAD",
        f"not a P-256 {which} key in PEM",
        hint="`tandem host init` and `tandem group add` make one; so does `openssl ecparam -name "
        "prime256v1 -genkey -noout`",
        offset=0,
    )
