"""The page about a run of the attacks: one self-contained HTML file, without scripts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Final

from tandem.appraisal.report import CONTENT_POLICY, text
from tandem.appraisal.report_picture import css
from tandem.appraisal.report_style import STYLE
from tandem.appraisal.verdict import Tier
from tandem.cli.attack_runs import Ran, Result, Standing
from tandem.installation import installed_version

OWN_STYLE: Final = """
.lead { color: var(--soft); max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(3.5rem, 1fr));
  gap: .5rem; padding: 1rem; }
.tiles a { display: block; padding: .375rem 0; border: 1px solid; border-radius: .5rem;
  text-align: center; font-weight: 700; font-size: .875rem; text-decoration: none; }
.tiles a.affirming { background: var(--good-fill); }
.tiles a.warning { background: var(--warn-fill); }
.tiles a.contraindicated { background: var(--bad-fill); }
.tiles a:focus-visible { outline: 3px solid var(--ink); }
.attack { margin: .875rem 0; padding: 1rem 1.125rem; overflow-wrap: anywhere;
  scroll-margin-top: 1rem; }
.attack.contraindicated { border-left: .3125rem solid var(--bad); color: inherit; }
.attack h3 { margin: 0 0 .25rem; font-size: 1rem; display: flex; gap: .75rem; }
.attack h3 b { color: var(--soft); flex: none; min-width: 2.25rem; }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr));
  gap: .75rem 2rem; margin: .75rem 0; font-size: .9375rem; }
.halves h4 { margin: 0 0 .25rem; font-size: .8125rem; color: var(--soft); display: flex;
  gap: .625rem; align-items: center; }
summary { cursor: pointer; color: var(--soft); font-size: .8125rem; }
pre { overflow-x: auto; padding: .75rem; background: var(--page); border-radius: .5rem;
  font: .75rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
@media print { .tiles a { color: inherit; } details { display: none; } }
"""
CONTROL: Final = {
    Standing.AS_CLAIMED: ("attack succeeds", Tier.NONE),
    Standing.OTHERWISE: ("attack does not succeed", Tier.WARNING),
    Standing.NOT_RUN: ("not run", Tier.WARNING),
}
TANDEM: Final = {
    Standing.AS_CLAIMED: ("holds", Tier.AFFIRMING),
    Standing.OTHERWISE: ("does not hold", Tier.CONTRAINDICATED),
    Standing.NOT_RUN: ("not run", Tier.WARNING),
}
OUTCOME: Final = {"passed": Tier.AFFIRMING, "failed": Tier.CONTRAINDICATED}
BADGE: Final = {
    Tier.AFFIRMING: "All hold",
    Tier.WARNING: "In doubt",
    Tier.CONTRAINDICATED: "Not all hold",
    Tier.NONE: "Nothing run",
}
LEAD: Final = (
    "Each attack is run twice: where people run guests without Tandem (plain swtpm and QEMU as a"
    " rule), and on Tandem. It must succeed on the first, or its failure on the second says"
    " nothing."
)


def write_report(results: Sequence[Result], started: datetime, took: timedelta) -> str:
    """Write the page for a visitor who wants to see for himself."""
    body = "\n".join(
        [
            _header(results, started, took),
            f'<p class="lead">{LEAD}</p>',
            _tiles(results),
            "<section><h2>The attacks</h2>",
            *(_attack(each) for each in results),
            "</section>",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(CONTENT_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Attacks on Tandem: {text(summary(results))}</title>\n"
        f"<style>{STYLE}{OWN_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def summary(results: Sequence[Result]) -> str:
    """Say in one line what became of all."""
    counted = Counter(each.tier for each in results)
    rest = [
        f"{counted[tier]} {words}"
        for tier, words in ((Tier.CONTRAINDICATED, "not held"), (Tier.WARNING, "in doubt"))
        if counted[tier]
    ]
    held = f"{counted[Tier.AFFIRMING]} of {len(results)} attacks held, each control succeeding"
    return "; ".join([held, *rest])


def _header(results: Sequence[Result], started: datetime, took: timedelta) -> str:
    worst = max((each.tier for each in results), default=Tier.NONE)
    system = os.uname()
    facts = {
        "Run": f"{started.isoformat(timespec='seconds')}, {took.total_seconds():.0f} s",
        "Tandem": installed_version(),
        "On": f"{system.sysname} {system.release}, {system.machine}",
        "Tests": str(sum(len(each.ran) for each in results)),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in facts.items())
    return (
        '<header><div><p class="kicker">Tandem attack suite</p>'
        f'<h1>{text(summary(results))}</h1><dl class="facts">{rows}</dl></div>'
        f'<p class="badge {css(worst)}">{BADGE[worst]}</p></header>'
    )


def _tiles(results: Sequence[Result]) -> str:
    tiles = "".join(
        f'<a class="{css(each.tier)}" href="#{_anchor(each)}" title="{text(each.attack.title)}">'
        f"{text(each.attack.row)}</a>"
        for each in results
    )
    return f'<nav class="card tiles" aria-label="Attacks by row">{tiles}</nav>'


def _attack(result: Result) -> str:
    attack = result.attack
    tests = "".join(_test(each) for each in result.ran)
    return (
        f'<article class="card attack {_mark(result)}" id="{_anchor(result)}">'
        f"<h3><b>{text(attack.row)}</b><span>{text(attack.title)}</span></h3>"
        f'<p class="kicker">Attacker: {text(attack.attacker)}</p>'
        '<div class="halves">'
        f"<div><h4>Control {_chip(*CONTROL[result.control])}</h4>{text(attack.control)}</div>"
        f"<div><h4>Tandem {_chip(*TANDEM[result.tandem])}</h4>{text(attack.shows)}</div></div>"
        f"<details{'' if result.tier is Tier.AFFIRMING else ' open'}>"
        f"<summary><code>tests/attacks/{text(attack.name)}</code>,"
        f" {len(result.ran)} tests, {result.seconds:.1f} s</summary>"
        f"<table><tr><th>Test</th><th>Outcome</th><th>Time</th></tr>{tests}</table></details>"
        "</article>"
    )


def _test(ran: Ran) -> str:
    said = "\n".join(text(line) for line in ran.said.splitlines())
    return (
        f"<tr><td>{text(_sentence(ran.test))}</td>"
        f"<td>{_chip(ran.outcome, OUTCOME.get(ran.outcome, Tier.WARNING))}</td>"
        f'<td class="number">{ran.seconds:.2f} s</td></tr>'
        + (f'<tr><td colspan="3"><pre>{said}</pre></td></tr>' if said else "")
    )


def _sentence(test: str) -> str:
    """Read a test's name as the promise that it is."""
    function, bracket, parameters = test.removeprefix("test_").partition("[")
    return function.replace("_", " ").replace("control ", "control: ", 1) + bracket + parameters


def _chip(words: str, tier: Tier) -> str:
    return f'<span class="chip {css(tier)}">{text(words)}</span>'


def _mark(result: Result) -> str:
    return css(result.tier) if result.tier is Tier.CONTRAINDICATED else ""


def _anchor(result: Result) -> str:
    return f"row-{result.attack.rows[0]}"
