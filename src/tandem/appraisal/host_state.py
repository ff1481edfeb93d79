"""The host beside what it was at its enrolment: its TPM's counts, its epoch, its rollback window.

A host that was booted again is the same host, and the finding says how often; one whose TPM went
back is not.
"""

from __future__ import annotations

from typing import Final

from tandem.appraisal.anchor import Anchor, QuotedState
from tandem.appraisal.policy import PolicyText
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.evidence.attest import Quote
from tandem.evidence.pair_record import PairRecord

MAX_CLOCK_LOST: Final = 1 << 22  # ms: what a power cut may take from the clock (Part 1, 36.3)
HOUR: Final = 3_600_000  # ms


def appraise_ptpm_state(quote: Quote, anchor: Anchor, policy: PolicyText) -> Finding:
    """Judge the pTPM's clock, counts and firmware against those that were quoted at enrolment."""
    rule, old = Rule.PTPM_FORWARD, anchor.state
    said = _said(quote.clock, quote.reset_count, quote.restart_count, quote.firmware_version)
    then = _said(old.clock, old.reset_count, old.restart_count, old.firmware_version)
    if _went_back(quote, old):
        return rule.broken(f"{said}: behind what it quoted at enrolment, {then}")
    resets = quote.reset_count - old.reset_count
    since = f"resets since enrolment: {resets}"
    if resets and policy.same_boot:
        return rule.broken(f"{said}; {since}; the policy takes the boot that was enrolled alone")
    if quote.firmware_version < old.firmware_version:
        return rule.doubtful(f"{said}: older firmware than at enrolment, {then}")
    changed = "" if quote.firmware_version == old.firmware_version else "; its firmware is newer"
    return rule.holds(f"{said}; {since}{changed}")


def appraise_epoch(record: PairRecord, anchor: Anchor) -> Finding:
    """Judge that no backup was restored since the host was enrolled."""
    rule, now, then = Rule.HOST_EPOCH, record.epoch, anchor.epoch
    if now < then:
        return rule.broken(
            f"epoch {now} of the host; it was enrolled in epoch {then}, which is over"
        )
    if now > then:
        return rule.doubtful(
            f"the host was restored from a backup since its enrolment: epoch {now}, enrolled in "
            f"epoch {then}; states of its vTPMs may be older than what was seen before"
        )
    return rule.holds(f"epoch {now} of the host, in which it was enrolled")


def appraise_rollback(record: PairRecord, policy: PolicyText) -> Finding:
    """Say what an older store could still undo, and judge that where the policy demands strict."""
    rule, window = Rule.ROLLBACK, record.rollback_window
    if not window:
        return rule.holds("nothing: each vTPM state was anchored before it was acknowledged")
    found = f"up to {window} s of vTPM state could still be rolled back"
    if policy.strict_rollback:
        return rule.broken(f"{found}; the policy demands a strict host")
    return rule.holds(f"{found} by whoever can put an older store in place")


def _went_back(quote: Quote, old: QuotedState) -> bool:
    """Whether counts or clock are behind; only TPM2_Clear or another TPM can bring that about."""
    counts = (quote.reset_count, quote.restart_count)
    if quote.reset_count == old.reset_count:
        return counts < (old.reset_count, old.restart_count) or quote.clock < old.clock
    return quote.reset_count < old.reset_count or quote.clock + MAX_CLOCK_LOST < old.clock


def _said(clock: int, resets: int, restarts: int, firmware: int) -> str:
    return (
        f"clock {clock / HOUR:.2f} h, reset count {resets}, restart count {restarts}, firmware "
        f"{firmware >> 32:#x}.{firmware & 0xFFFFFFFF:x}"
    )
