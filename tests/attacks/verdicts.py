"""What a verdict has against evidence, by the names of its findings."""

from __future__ import annotations

from tandem.appraisal.verdict import Tier, Verdict


def against(verdict: Verdict) -> list[str]:
    """Give the rules that are broken, in their order."""
    return [each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
