"""Attestation result: a verdict for programs, with the trustworthiness vector of AR4SI."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from tandem.appraisal.verdict import Claim, Finding, Tier, Verdict

FORMAT: Final = "tandem-verdict-1"


def trust_vector(verdict: Verdict) -> dict[str, int]:
    """Give the worst tier of each claim; a claim that no finding is about stays NONE (0)."""
    return {
        str(claim): max((int(each.tier) for each in verdict.about(claim)), default=int(Tier.NONE))
        for claim in Claim
    }


def as_record(verdict: Verdict, nonce: bytes, at: datetime) -> dict[str, object]:
    """Give the result as JSON values; tiers are AR4SI's, by name."""
    return {
        "format": FORMAT,
        "attester": verdict.attester,
        "trusted": verdict.tier is Tier.AFFIRMING,
        "tier": verdict.tier.name,
        "trustworthiness_vector": trust_vector(verdict),
        "nonce": nonce.hex(),
        "appraised_at": at.isoformat(),
        "findings": [_finding(each) for each in verdict.findings],
        "notes": list(verdict.notes),
    }


def as_json(verdict: Verdict, nonce: bytes, at: datetime) -> str:
    """Write the result; keys are sorted so that two runs compare."""
    return json.dumps(as_record(verdict, nonce, at), indent=1, sort_keys=True)


def _finding(each: Finding) -> dict[str, object]:
    record: dict[str, object] = {
        "rule": each.rule,
        "claim": str(each.claim),
        "link": str(each.link),
        "tier": each.tier.name,
        "found": each.found,
    }
    if each.remedy:
        record["remedy"] = each.remedy
    if each.offset is not None:
        record["offset"] = each.offset
    return record
