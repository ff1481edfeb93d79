"""The picture of the report: guest, vTPM, pair, deep quote and pTPM, a chain that holds or breaks.

A box is coloured by the findings on it, a connection by the findings that tie its two ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding, Link, Tier, Verdict

WIDTH: Final = 1120
HEIGHT: Final = 106
BOX_WIDTH: Final = 136
BOX_HEIGHT: Final = 84
TOP: Final = 18
STEP: Final = (WIDTH - BOX_WIDTH - 4) // (len(Link) - 1)
MIDDLE: Final = TOP + BOX_HEIGHT // 2
MARK: Final = {
    Tier.AFFIRMING: "M-6 0 l4 5 l8 -9",
    Tier.WARNING: "M0 -6 v7 M0 6 v.1",
    Tier.CONTRAINDICATED: "M-5 -5 l10 10 M5 -5 l-10 10",
    Tier.NONE: "M-5 0 h10",
}
TIES: Final = (  # between a link and the next: what it says, and the rules that tie them
    ("measured into", (Rule.LAUNCH_MEASURED, Rule.LAUNCH_LOG_REPLAYS)),
    (
        "named by",
        (
            *(Rule.ISSUER_CERTIFIED, Rule.NOT_REVOKED, Rule.AK_CERTIFIED, Rule.AK_CARRIES_RECORD),
            *(Rule.AK_IN_FORCE, Rule.AK_NAMED, Rule.EK_CERTIFIED, Rule.VTPM_QUOTE_SIGNED),
            *(Rule.VTPM_QUOTE_QUALIFIED, Rule.VTPM_NOT_RESET, Rule.LAUNCH_LOG_RECORDED),
        ),
    ),
    ("leaf of", (Rule.PATH_FITS, Rule.LEAF_QUOTED, Rule.NONCE_FRESH)),
    ("signed by", (Rule.PTPM_QUOTE_MADE, Rule.PTPM_QUOTE_SIGNED, Rule.HOST_AK_ENROLLED)),
)


def draw(verdict: Verdict) -> str:
    """Draw the chain as an SVG element; colours come from the page's style."""
    parts = [_tie(verdict, number) for number in range(len(TIES))]
    parts += [_box(verdict, number, link) for number, link in enumerate(Link)]
    label = escape(f"The chain of this deep quote: {verdict.word}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _box(verdict: Verdict, number: int, link: Link) -> str:
    findings = verdict.along(link)
    tier, left = worst(findings), 2 + number * STEP
    good = sum(each.tier is Tier.AFFIRMING for each in findings)
    centre = left + BOX_WIDTH // 2
    counted = f"{good} of {len(findings)} hold" if findings else "nothing checked"
    return (
        f'<g class="{css(tier)}">'
        f'<rect x="{left}" y="{TOP}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="12"/>'
        f'<text class="name" x="{centre}" y="{TOP + 38}" text-anchor="middle">{_title(link)}</text>'
        f'<text class="small" x="{centre}" y="{TOP + 62}" text-anchor="middle">{counted}</text>'
        f"{_disc(centre, TOP, tier)}</g>"
    )


def _tie(verdict: Verdict, number: int) -> str:
    label, rules = TIES[number]
    titles = {rule.title for rule in rules}
    tier = worst(each for each in verdict.findings if each.rule in titles)
    start = 2 + number * STEP + BOX_WIDTH
    end = 2 + (number + 1) * STEP
    centre = (start + end) // 2
    gap = 0 if tier is Tier.AFFIRMING else 22
    lines = "".join(
        f'<line x1="{a}" y1="{MIDDLE}" x2="{b}" y2="{MIDDLE}"/>'
        for a, b in ((start + 6, centre - gap), (centre + gap, end - 6))
    )
    mark = "" if tier is Tier.AFFIRMING else _disc(centre, MIDDLE, tier)
    text = f'<text class="edge-label" x="{centre}" y="{MIDDLE - 22}" text-anchor="middle">'
    return f'<g class="{css(tier)}">{lines}{mark}{text}{label}</text></g>'


def _disc(x: int, y: int, tier: Tier) -> str:
    return (
        f'<g transform="translate({x} {y})"><circle class="disc" r="14"/>'
        f'<path d="{MARK[tier]}"/></g>'
    )


def _title(link: Link) -> str:
    return {Link.GUEST: "Guest", Link.PAIR: "Pair", Link.DEEP_QUOTE: "Deep quote"}.get(link, link)


def worst(findings: Iterable[Finding] | Sequence[Finding]) -> Tier:
    """Give the worst tier, NONE where there is no finding."""
    return max((each.tier for each in findings), default=Tier.NONE)


def css(tier: Tier) -> str:
    """Give the style class of a tier."""
    return tier.name.lower()
