"""Enrolment of a host AK: credential activation, the verifier's side (TPM 2.0 Part 1, 24).

`make_credential` does in pure Python what TPM2_MakeCredential does: only a TPM that holds both the
EK and an object of the given Name can recover the credential.  The challenge goes to the host and
the proof comes back, each as a small JSON document; with it comes a quote, so that the host's state
is proven and not claimed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB  # what the TPM protects objects with
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from tandem.appraisal.pcrs import appraise_quoted
from tandem.appraisal.quotes import appraise_signature
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.attest import Quote, parse_quote
from tandem.evidence.enrolment import Proof, enrolment_data
from tandem.evidence.host_export import HostExport
from tandem.evidence.strict_json import parse_json
from tandem.evidence.tpm_types import Public

CHALLENGE_FORMAT: Final = "tandem-challenge-1"
CREDENTIAL_SIZE: Final = 32
CREDENTIAL_TAG: Final = b"TANDEM-CREDENTIAL-1\0"
MAX_DOCUMENT: Final = 8 * 1024
MAX_BLOB: Final = 256  # TPMS_ID_OBJECT: integrity and an encrypted digest
IDENTITY: Final = b"IDENTITY"
MAX_SECRET: Final = 512  # a seed encrypted to RSA-4096
_HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}

Random = Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What the host gets: both are contents of a TPM2B, without its size."""

    credential_blob: bytes
    encrypted_secret: bytes


def credential_for(secret: bytes, exported: bytes) -> bytes:
    """Give the credential of one export; the host learns it, and the secret stays here.

    So the proof of one host's keys cannot be spent on an export with another's.
    """
    if len(secret) != CREDENTIAL_SIZE:
        raise _not_proven(
            f"the secret has {len(secret)} bytes, not {CREDENTIAL_SIZE}",
            "give the file that `tandem verifier challenge` kept",
        )
    return hmac.digest(secret, CREDENTIAL_TAG + exported, "sha256")


def make_credential(ek: Public, name: bytes, credential: bytes, random: Random) -> Challenge:
    """Encrypt `credential` to the TPM of `ek`, for the object called `name` alone."""
    if not ek.is_ek or not ek.symmetric_bits or ek.name_algorithm not in _HASHES:
        raise Refused(
            "TDM-ENROL-NOT-AN-EK",
            "the export's EK is not a restricted storage key that stays in its TPM",
            hint="export the host again; an EK of a TCG template is needed",
        )
    seed, encrypted_secret = _share_seed(ek, random)
    digest = ek.name_algorithm
    bits = 8 * hashlib.new(digest).digest_size
    key = kdfa(digest, seed, b"STORAGE", name, b"", ek.symmetric_bits)
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(len(credential).to_bytes(2) + credential) + encryptor.finalize()
    integrity_key = kdfa(digest, seed, b"INTEGRITY", b"", b"", bits)
    integrity = hmac.digest(integrity_key, identity + name, digest)
    return Challenge(
        credential_blob=len(integrity).to_bytes(2) + integrity + identity,
        encrypted_secret=encrypted_secret,
    )


def write_challenge(challenge: Challenge) -> bytes:
    """Write the document that the host activates."""
    fields = {
        "format": CHALLENGE_FORMAT,
        "credential_blob": challenge.credential_blob.hex(),
        "encrypted_secret": challenge.encrypted_secret.hex(),
    }
    return json.dumps(fields, indent=1).encode("ascii") + b"\n"


def parse_challenge(data: bytes) -> Challenge:
    """Read a challenge, on the host."""
    root = parse_json(data, "challenge", "TDM-CHALLENGE-BAD", MAX_DOCUMENT)
    fields = root.fields(("format", "credential_blob", "encrypted_secret"))
    fields["format"].one_of(CHALLENGE_FORMAT)
    return Challenge(
        credential_blob=fields["credential_blob"].some_hexadecimal(MAX_BLOB),
        encrypted_secret=fields["encrypted_secret"].some_hexadecimal(MAX_SECRET),
    )


def check_proof(export: HostExport, exported: bytes, credential: bytes, proof: Proof) -> Quote:
    """Give the quote of a proof that holds; `exported` is the very export it was made for."""
    if not hmac.compare_digest(credential, proof.credential):
        raise _not_proven(
            "the host did not recover the credential: its AK and EK are not in one TPM, or the "
            "challenge was for another export",
            "enrol by the very export that the challenge was made for; else do not trust this host",
        )
    quote = parse_quote(proof.attest)
    for finding in (
        appraise_signature(
            Rule.PTPM_QUOTE_SIGNED, export.ak.encoded, proof.attest, proof.signature
        ),
        appraise_quoted(Rule.HOST_PCRS_QUOTED, quote, proof.pcrs),
    ):
        if finding.tier is not Tier.AFFIRMING:
            raise _not_proven(finding.found, "do not trust this host: its proof was changed")
    if not hmac.compare_digest(enrolment_data(credential, exported), quote.qualifying_data):
        raise _not_proven(
            "the host's quote is not for this credential and this export",
            "export the host again, and enrol it from that: a new group or a restore changes it",
        )
    return quote


def _not_proven(problem: str, hint: str) -> Refused:
    return Refused("TDM-ENROL-NOT-PROVEN", problem, hint=hint)


def kdfa(
    digest: str, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int
) -> bytes:
    """KDFa (TPM 2.0 Part 1, 11.4.10.2): SP 800-108 in counter mode with HMAC."""
    fixed = label + b"\0" + context_u + context_v + bits.to_bytes(4)
    return _counted(bits, lambda count: hmac.digest(key, count + fixed, digest))


def kdfe(digest: str, z: bytes, use: bytes, party_u: bytes, party_v: bytes, bits: int) -> bytes:
    """KDFe (TPM 2.0 Part 1, 11.4.10.3): the one-step derivation of SP 800-56A."""
    fixed = z + use + b"\0" + party_u + party_v
    return _counted(bits, lambda count: hashlib.new(digest, count + fixed).digest())


def _counted(bits: int, block: Callable[[bytes], bytes]) -> bytes:
    size, out, count = bits // 8, b"", 0
    while len(out) < size:
        count += 1
        out += block(count.to_bytes(4))
    return out[:size]


def _share_seed(ek: Public, random: Random) -> tuple[bytes, bytes]:
    """Give a seed and the same encrypted to the EK (Part 1, annexes B.10.3 and C.6.3)."""
    size = hashlib.new(ek.name_algorithm).digest_size
    if isinstance(ek.key, rsa.RSAPublicKey):
        algorithm = _HASHES[ek.name_algorithm]()
        oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, label=IDENTITY + b"\0")
        seed = random(size)
        return seed, ek.key.encrypt(seed, oaep)
    ephemeral = ec.generate_private_key(ek.key.curve)
    z = ephemeral.exchange(ec.ECDH(), ek.key)
    mine, theirs = ephemeral.public_key().public_numbers(), ek.key.public_numbers()
    width = (ek.key.curve.key_size + 7) // 8
    x = mine.x.to_bytes(width)
    seed = kdfe(ek.name_algorithm, z, IDENTITY, x, theirs.x.to_bytes(width), 8 * size)
    point = b"".join(len(each).to_bytes(2) + each for each in (x, mine.y.to_bytes(width)))
    return seed, point


def refuse_weak_ak(ak: Public) -> None:
    """Refuse an AK that could sign a quote its TPM did not make."""
    if not ak.is_ak:
        raise UntrustedInput(
            "TDM-ENROL-NOT-AN-AK",
            "the export's AK is not a restricted signing key that stays in its TPM",
            hint="provision the host again with `tandem host init`",
            offset=0,
        )
