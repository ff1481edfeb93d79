"""One quote: what its signature covers and what qualifies it (TPM 2.0 Part 1, section 36)."""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import UntrustedInput
from tandem.evidence.attest import Quote, parse_quote
from tandem.evidence.pair_record import PairRecord
from tandem.evidence.tpm_types import (
    Algorithm,
    Public,
    PublicKey,
    Signature,
    parse_public,
    parse_signature,
)
from tandem.evidence.vtpm_ak import TPM_RH_ENDORSEMENT, TPM_RH_PLATFORM, qualified_name

HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {  # SHA-1 signs nothing here
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


def appraise_form(rule: Rule, attest: bytes) -> tuple[Quote | None, Finding]:
    """Read a quote: magic, type and every field."""
    try:
        quote = parse_quote(attest)
    except UntrustedInput as error:
        return None, rule.unreadable(error)
    return quote, rule.holds("a TPM made this quote: its magic and type are right")


def appraise_signature(rule: Rule, ak: bytes, attest: bytes, signature: bytes) -> Finding:
    """Judge the signature over a quote by the AK whose TPMT_PUBLIC is given."""
    try:
        public, signed = parse_public(ak), parse_signature(signature)
    except UntrustedInput as error:
        return rule.unreadable(error)
    if not public.is_ak:
        return rule.broken("the key is no AK: it could sign what its TPM did not make")
    if not _scheme_fits(public, signed):
        return rule.broken(f"signed with {signed.scheme.name} and {signed.hash}, not the key's way")
    return rule.judged(
        signature_holds(public.key, signed, attest),
        f"signed by AK {public.name.hex()} ({signed.scheme.name}, {signed.hash})",
        f"the signature is not one of AK {public.name.hex()} over this quote",
    )


def signature_holds(key: PublicKey, signature: Signature, data: bytes) -> bool:
    """Whether a signature with SHA-256 or better is the key's over `data`."""
    if signature.hash not in HASHES:
        return False
    algorithm = HASHES[signature.hash]()
    try:
        if isinstance(key, rsa.RSAPublicKey) and isinstance(signature.value, bytes):
            key.verify(signature.value, data, _padding(signature, algorithm), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(signature.value, tuple):
            key.verify(encode_dss_signature(*signature.value), data, ec.ECDSA(algorithm))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def appraise_qualifying_data(quote: Quote, expected: bytes) -> Finding:
    """Judge what the vTPM's quote is qualified with: nonce, user data and pair record."""
    return Rule.VTPM_QUOTE_QUALIFIED.judged(
        hmac.compare_digest(quote.qualifying_data, expected),
        "the vTPM quoted for this nonce, this user data and this pair record",
        f"qualified with {quote.qualifying_data.hex()}, not {expected.hex()}: it was made for "
        "another nonce, other user data or another pair",
    )


def appraise_hierarchy(quote: Quote, ak: bytes) -> Finding:
    """Judge that the AK is one that shows the counts as they are.

    A key of the owner's hierarchy shows them scrambled (Part 1, 36.7); the Qualified Name says
    where a key stands.
    """
    name = parse_public(ak).name
    hierarchies = {"platform": TPM_RH_PLATFORM, "endorsement": TPM_RH_ENDORSEMENT}
    for word, hierarchy in hierarchies.items():
        if quote.qualified_signer == qualified_name(hierarchy, name):
            return Rule.COUNTS_SHOWN.holds(f"the AK is a primary key of the {word} hierarchy")
    return Rule.COUNTS_SHOWN.broken(
        "the AK is no primary key of the platform or endorsement hierarchy"
    )


def appraise_counts(quote: Quote, record: PairRecord) -> Finding:
    """Judge that the vTPM was started once, for this launch, and never since.

    A D-RTM sequence counts as a restart (TPMS_CLOCK_INFO, Part 2, 10.11.1), and TPM2_Clear sets
    both counts to zero, which would hide what came before it.
    """
    if (quote.reset_count, quote.restart_count) == (0, 0):
        return Rule.VTPM_NOT_RESET.broken(
            "both counts are 0: the guest ran TPM2_Clear since its launch, and that hides resets"
        )
    found = f"reset count {quote.reset_count}, restart count {quote.restart_count}"
    wanted = f"{record.reset_count} and {record.restart_count}"
    return Rule.VTPM_NOT_RESET.judged(
        (quote.reset_count, quote.restart_count) == (record.reset_count, record.restart_count),
        f"{found}, as the pair record expects",
        f"{found}; the pair record expects {wanted}",
    )


def _padding(
    signature: Signature, algorithm: hashes.HashAlgorithm
) -> padding.PKCS1v15 | padding.PSS:
    if signature.scheme == Algorithm.RSASSA:
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)


def _scheme_fits(public: Public, signature: Signature) -> bool:
    """A restricted key signs in its own way only (Part 1, 25.3)."""
    if signature.hash not in HASHES:
        return False
    wanted = Algorithm[signature.hash.upper()]
    return (public.scheme, public.scheme_hash) == (signature.scheme, wanted)
