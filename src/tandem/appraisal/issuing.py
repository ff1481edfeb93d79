"""Whose key is the vTPM's AK?  From a group's CA over an issuing key to one vTPM in one launch."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tandem.appraisal.anchor import Anchor
from tandem.appraisal.certificate_path import find_ek_path, issuing_problem
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import UntrustedInput
from tandem.evidence import oids
from tandem.evidence.certificate_extensions import read_extensions
from tandem.evidence.certificates import Certificate, parse_certificate
from tandem.evidence.ek_template import rsa_ek_name
from tandem.evidence.pair_record import PairRecord, record_digest
from tandem.evidence.tpm_types import parse_public
from tandem.evidence.vtpm_ak import vtpm_ak_public


def appraise_issuer(
    der: bytes, group: str, anchor: Anchor, at: datetime
) -> tuple[Certificate | None, Finding]:
    """Judge the issuing key's certificate: the enrolled host's CA for the group vouches for it."""
    rule = Rule.ISSUER_CERTIFIED
    try:
        issuer = parse_certificate(der)
    except UntrustedInput as error:
        return None, rule.unreadable(error)
    authority = anchor.authorities.get(group)
    if authority is None:
        return issuer, rule.broken(f"the enrolled host has no CA for group {group[:64]!a}")
    name = f"{authority.subject[:200]!a}"
    problem = issuing_problem(issuer, authority, below=1, purpose=oids.AK_CERTIFICATE, at=at)
    return issuer, rule.judged(
        not problem,
        f"certified by the host's CA for group {group}: {name}",
        f"not certified by the enrolled host's CA for group {group}, {name}: {problem}",
    )


def appraise_ak_certificate(
    certificate: Certificate, record: PairRecord | None, encoded_record: bytes
) -> tuple[bytes | None, tuple[Finding, ...]]:
    """Judge what the AK's certificate says; gives the AK's TPMT_PUBLIC where there is one."""
    carries = _carries(certificate, record, encoded_record)
    key = certificate.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return None, (carries, Rule.AK_NAMED.broken("the certified key is not of P-256"))
    public = vtpm_ak_public(key)
    return public, (carries,) if record is None else (carries, _named(public, record))


def appraise_issue(certificate: Certificate, issuer: Certificate, at: datetime) -> Finding:
    """Judge that the issuing key signed the AK's certificate, while it was in use."""
    rule = Rule.AK_CERTIFIED
    problem = issuing_problem(certificate, issuer, below=0, purpose=oids.AK_CERTIFICATE, at=at)
    if problem:
        return rule.broken(problem)
    own = read_extensions(certificate)
    is_ak = own.key_usage == frozenset(("digital_signature",)) and not certificate.is_ca
    if oids.AK_CERTIFICATE not in certificate.usages or not is_ak:
        return rule.broken("the certificate is not one of an AK that signs and does nothing else")
    if own.unknown_critical:
        return rule.broken(f"it has an unknown critical extension {own.unknown_critical[0]}")
    out_of_time = _out_of_time(certificate, issuer)
    return rule.judged(not out_of_time, f"issued by {_in_use(issuer)}", out_of_time)


def appraise_ek(
    certificates: Sequence[Certificate], record: PairRecord, anchor: Anchor, at: datetime
) -> Finding:
    """Judge the certificate of the vTPM's RSA EK, the first of those given; CAs follow it."""
    rule, leaf = Rule.EK_CERTIFIED, certificates[0]
    name = rsa_ek_name(leaf.key) if isinstance(leaf.key, rsa.RSAPublicKey) else None
    if name != record.ek_name:
        shown = "no RSA EK" if name is None else f"EK {name.hex()}"
        return rule.broken(f"certified is {shown}; the pair record has {record.ek_name.hex()}")
    authority = anchor.authorities.get(record.group)
    roots = [] if authority is None else [authority]
    path = find_ek_path(leaf, certificates[1:], roots, at)
    if not path.found:
        return rule.broken(
            f"not certified by the enrolled host's CA for this group: {path.problem}"
        )
    out_of_time = _out_of_time(leaf, path.certificates[1])
    return rule.judged(
        not out_of_time,
        f"EK {name.hex()} is the record's, issued by {_in_use(path.certificates[1])}",
        out_of_time,
    )


def _out_of_time(certificate: Certificate, issuer: Certificate) -> str:
    """Say how a certificate was made while its issuing key was not in use; empty where it was."""
    period = read_extensions(issuer)
    if period.key_not_before is None or period.key_not_after is None:
        return "the issuing key's certificate does not say how long it may sign"
    if period.key_not_before <= certificate.not_before <= period.key_not_after:
        return ""
    made = certificate.not_before.isoformat()
    return f"issued on {made} by {_in_use(issuer)}: out of its time"


def _in_use(issuer: Certificate) -> str:
    period = read_extensions(issuer)
    first, last = period.key_not_before, period.key_not_after
    return f"the issuing key in use from {first} to {last}"


def appraise_in_force(certificate: Certificate, at: datetime) -> Finding:
    """Judge the time in which the AK's certificate is in force; its CAs' is judged with them."""
    start, end = certificate.not_before.isoformat(), certificate.not_after.isoformat()
    return Rule.AK_IN_FORCE.judged(
        certificate.not_before <= at <= certificate.not_after,
        f"in force at {at.isoformat()}: from {start} to {end}",
        f"not in force at {at.isoformat()}: from {start} to {end}",
    )


def _carries(certificate: Certificate, record: PairRecord | None, encoded_record: bytes) -> Finding:
    rule, digest = Rule.AK_CARRIES_RECORD, record_digest(encoded_record)
    carried = certificate.pair_record_digest
    if carried is None:
        return rule.broken("the certificate carries no pair record digest")
    counts = certificate.expected_counts
    if record is not None and counts != (record.reset_count, record.restart_count):
        return rule.broken(f"the certificate carries other counts than the pair record: {counts}")
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
