"""Revocation: the newest list of the group's CA, and whether it names what vouches for the vTPM."""

from __future__ import annotations

from datetime import datetime

from tandem.appraisal.anchor import Anchor
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import UntrustedInput
from tandem.evidence.certificates import Certificate
from tandem.evidence.revocation import parse_revocation_list, signed_by


def appraise_revocation(
    crl: bytes, group: str, anchor: Anchor, certificates: tuple[Certificate, ...], at: datetime
) -> Finding:
    """Judge by a list that none of the certificates is revoked; an old list shows nothing."""
    rule = Rule.NOT_REVOKED
    try:
        revocations = parse_revocation_list(crl)
    except UntrustedInput as error:
        return rule.unreadable(error)
    authority = anchor.authorities.get(group)
    if authority is None or not signed_by(revocations, authority):
        return rule.broken(f"the list is not signed by the enrolled host's CA for {group[:64]!a}")
    which = f"list {revocations.number} of {revocations.issued_at.isoformat()}"
    for certificate in certificates:
        if certificate.serial in revocations.revoked:
            since = revocations.revoked[certificate.serial].isoformat()
            return rule.broken(f"{which} revoked certificate {certificate.serial:x} on {since}")
    if at < revocations.issued_at:
        return rule.doubtful(f"{which} is of a later time than {at.isoformat()}: check the clocks")
    if at > revocations.next_due:
        due = revocations.next_due.isoformat()
        return rule.doubtful(f"{which} is stale: a newer one was due on {due}")
    return rule.holds(f"{which} names none of the certificates")
