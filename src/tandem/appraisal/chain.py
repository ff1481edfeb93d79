"""Whose keys are these?  From the enrolled host to the AK of one vTPM in one launch."""

from __future__ import annotations

import hmac
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from tandem.appraisal.anchor import Anchor, Standing, open_anchor
from tandem.appraisal.policy import Policy
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.certificates import Certificate, issued_by, parse_certificate
from tandem.evidence.pair_record import PairRecord, record_digest
from tandem.evidence.tpm_types import parse_public
from tandem.evidence.vtpm_ak import vtpm_ak_public


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


def appraise_ak_certificate(
    der: bytes, record: PairRecord | None, encoded_record: bytes, anchor: Anchor, at: datetime
) -> tuple[bytes | None, tuple[Finding, ...]]:
    """Judge the vTPM's AK certificate; gives the AK's TPMT_PUBLIC where there is one."""
    try:
        certificate = parse_certificate(der)
    except UntrustedInput as error:
        return None, (Rule.AK_CERTIFIED.unreadable(error),)
    findings = [] if record is None else [_certified(certificate, record.group, anchor)]
    findings += [_in_force(certificate, record, anchor, at), _carries(certificate, encoded_record)]
    key = certificate.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return None, (*findings, Rule.AK_NAMED.broken("the certified key is not of P-256"))
    public = vtpm_ak_public(key)
    if record is not None:
        findings.append(_named(public, record))
    return public, tuple(findings)


def _hardware_root(anchor: Anchor, required: bool) -> Finding:
    rule = Rule.HARDWARE_ROOT
    if anchor.standing is Standing.VENDOR:
        return rule.holds("a TPM vendor certified the host's EK")
    found = "no hardware root: embedded TPM"
    if anchor.standing is Standing.UNPROVEN:
        found = "no hardware root shown: no vendor's certificate for the host's EK"
    return rule.doubtful(found) if required else rule.holds(f"{found} (waived by the policy)")


def _certified(certificate: Certificate, group: str, anchor: Anchor) -> Finding:
    authority = anchor.authorities.get(group)
    if authority is None:
        return Rule.AK_CERTIFIED.broken(f"the enrolled host has no CA for group {group[:64]!a}")
    return Rule.AK_CERTIFIED.judged(
        issued_by(certificate, authority),
        f"issued by the host's CA for group {group}: {authority.subject[:200]!a}",
        f"not issued by the enrolled host's CA {authority.subject[:200]!a}",
    )


def _in_force(
    certificate: Certificate, record: PairRecord | None, anchor: Anchor, at: datetime
) -> Finding:
    """Judge the time in which both the certificate and the CA's own are in force."""
    authority = anchor.authorities.get(record.group) if record is not None else None
    both = [certificate] if authority is None else [certificate, authority]
    not_before = max(each.not_before for each in both)
    not_after = min(each.not_after for each in both)
    start, end = not_before.isoformat(), not_after.isoformat()
    return Rule.AK_IN_FORCE.judged(
        not_before <= at <= not_after,
        f"in force at {at.isoformat()}: from {start} to {end}",
        f"not in force at {at.isoformat()}: from {start} to {end}",
    )


def _carries(certificate: Certificate, encoded_record: bytes) -> Finding:
    rule, digest = Rule.AK_CARRIES_RECORD, record_digest(encoded_record)
    carried = certificate.pair_record_digest
    if carried is None:
        return rule.broken("the certificate carries no pair record digest")
    return rule.judged(
        hmac.compare_digest(carried, digest),
        f"carries the digest of this pair record, {digest.hex()}",
        f"carries {carried.hex()}; this pair record's digest is {digest.hex()}",
    )


def _named(public: bytes, record: PairRecord) -> Finding:
    name = parse_public(public).name
    return Rule.AK_NAMED.judged(
        hmac.compare_digest(name, record.ak_name),
        f"the certified key has the Name in the pair record, {name.hex()}",
        f"the certified key's Name is {name.hex()}, the pair record has {record.ak_name.hex()}",
    )
