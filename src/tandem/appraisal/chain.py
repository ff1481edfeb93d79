"""Whose quote is this?  The enrolled host, its hardware root and its AK."""

from __future__ import annotations

import hmac

from tandem.appraisal.anchor import Anchor, Standing, open_anchor
from tandem.appraisal.policy import Policy
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.tpm_types import parse_public


def appraise_anchor(policy: Policy) -> tuple[Anchor | None, tuple[Finding, ...]]:
    """Open the trust anchor that the policy names, and judge the host's hardware root."""
    try:
        anchor = open_anchor(policy.anchor, policy.anchor_key)
    except (UntrustedInput, Refused) as error:
        return None, (Rule.ANCHOR_SIGNED.unreadable(error),)
    signed = Rule.ANCHOR_SIGNED.holds("the trust anchor is signed by the key that the policy names")
    return anchor, (signed, _hardware_root(anchor, policy.text.hardware_root))


def appraise_host_ak(host_ak: bytes, anchor: Anchor | None) -> Finding:
    """Judge that the AK of the pTPM's quote is the one that was enrolled."""
    rule = Rule.HOST_AK_ENROLLED
    try:
        name = parse_public(host_ak).name.hex()
    except UntrustedInput as error:
        return rule.unreadable(error)
    if anchor is None:
        return rule.broken(f"no trust anchor vouches for host AK {name}: its quote proves nothing")
    return rule.judged(
        hmac.compare_digest(host_ak, anchor.ak.encoded),
        f"host AK {name} was enrolled with its EK by credential activation",
        f"nobody enrolled host AK {name}: its quote proves nothing; the policy's anchor has "
        f"{anchor.ak.name.hex()}",
    )


def _hardware_root(anchor: Anchor, required: bool) -> Finding:
    rule = Rule.HARDWARE_ROOT
    if anchor.standing is Standing.VENDOR:
        tpm = "its certificate names no model" if anchor.tpm is None else f"TPM {anchor.tpm}"
        return rule.holds(f"a TPM vendor certified the host's EK: {tpm}")
    found = "no hardware root: embedded TPM"
    if anchor.standing is Standing.UNPROVEN:
        found = "no hardware root shown: no vendor's certificate for the host's EK"
    found = f"{found}; the host's own root, EK {anchor.ek.name.hex()}, is all that vouches for it"
    return rule.doubtful(found) if required else rule.holds(f"{found} (waived by the policy)")
