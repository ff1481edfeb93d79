"""Report: a verdict as one self-contained HTML page, without scripts and without other files.

Whatever comes from evidence is escaped, and what does not print is replaced: a guest writes no
markup, no direction marks and no control characters into it.
"""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Final

from tandem.appraisal.report_picture import css, draw
from tandem.appraisal.report_style import STYLE
from tandem.appraisal.result import trust_vector
from tandem.appraisal.verdict import Finding, Link, Tier, Verdict

CONTENT_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
WORD: Final = {
    Tier.AFFIRMING: "holds",
    Tier.WARNING: "in doubt",
    Tier.CONTRAINDICATED: "broken",
    Tier.NONE: "not checked",
}
ABOUT: Final = {
    Link.GUEST: "what was measured before the guest's first instruction, beside the library",
    Link.VTPM: "the quote of the guest's own TPM",
    Link.PAIR: "which guest and which vTPM belong together in this launch",
    Link.DEEP_QUOTE: "this answer to this request, in the tree that the pTPM quoted",
    Link.PTPM: "the host, its TPM and its state",
}


def write_report(verdict: Verdict, nonce: bytes, at: datetime) -> str:
    """Write the page for a person who has to decide about this guest."""
    title = f"{verdict.attester}: {verdict.word}"
    body = "\n".join(
        [
            _header(verdict, nonce, at),
            f'<div class="card picture">{draw(verdict)}</div>',
            _problems(verdict),
            *(_link(verdict, link) for link in reversed(Link)),
            _vector(verdict),
            _notes(verdict),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(CONTENT_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def text(value: str) -> str:
    """Make a text safe for the page: escaped, and only printable characters."""
    return escape("".join(each if each.isprintable() else "\ufffd" for each in value))


def _header(verdict: Verdict, nonce: bytes, at: datetime) -> str:
    good = sum(each.tier is Tier.AFFIRMING for each in verdict.findings)
    facts = {
        "Appraised": at.isoformat(timespec="seconds"),
        "Nonce": nonce.hex(),
        "Claims that hold": f"{good} of {len(verdict.findings)}",
    }
    rows = "".join(
        f"<dt>{name}</dt><dd><code>{text(value)}</code></dd>" for name, value in facts.items()
    )
    return (
        f'<header><div><p class="kicker">Tandem attestation result</p>'
        f'<h1>{text(verdict.attester)}</h1><dl class="facts">{rows}</dl></div>'
        f'<p class="badge {css(verdict.tier)}">{verdict.word.capitalize()}</p></header>'
    )


def _problems(verdict: Verdict) -> str:
    ordered = sorted(verdict.findings, key=lambda each: -each.tier)
    items = "".join(
        f'<li class="card {css(each.tier)}">{_chip(each.tier)} <strong>{text(each.rule)}</strong>'
        f'<p>{text(each.found)}</p><p class="remedy">{text(each.remedy)}</p></li>'
        for each in ordered
        if each.tier is Tier.CONTRAINDICATED
    )
    doubts = sum(each.tier is Tier.WARNING for each in verdict.findings)
    rest = f"<p>{doubts} more could not be shown to hold: see below.</p>" if doubts else ""
    if not items and not rest:
        return ""
    return f'<section><h2>Why not</h2><ul class="problems">{items}</ul>{rest}</section>'


def _link(verdict: Verdict, link: Link) -> str:
    rows = "".join(_row(each) for each in verdict.along(link))
    name = link if link in (Link.VTPM, Link.PTPM) else link.capitalize()
    return (
        f'<section><h2>{name}</h2><p class="kicker">{ABOUT[link]}</p>'
        f'<div class="card"><table><tr><th>Claim</th><th>Status</th><th>Found</th></tr>'
        f"{rows}</table></div></section>"
    )


def _row(each: Finding) -> str:
    remedy = f'<p class="remedy">{text(each.remedy)}</p>' if each.remedy else ""
    return (
        f'<tr><td class="rule">{text(each.rule)}</td><td>{_chip(each.tier)}</td>'
        f'<td class="found">{text(each.found)}{remedy}</td></tr>'
    )


def _vector(verdict: Verdict) -> str:
    items = "".join(
        f"<span>{text(claim)} {_chip(Tier(value))}</span>"
        for claim, value in trust_vector(verdict).items()
    )
    return (
        "<section><h2>Trustworthiness vector (AR4SI)</h2>"
        f'<div class="card vector">{items}</div></section>'
    )


def _notes(verdict: Verdict) -> str:
    items = "".join(f"<li>{text(note)}</li>" for note in verdict.notes)
    return f'<section><h2>What this does not say</h2><ul class="notes">{items}</ul></section>'


def _chip(tier: Tier) -> str:
    return f'<span class="chip {css(tier)}">{WORD[tier]}</span>'
