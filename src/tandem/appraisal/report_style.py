"""The style sheet of the report page: one for light and dark, screen and paper."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #17202b; --soft: #5b6875; --line: #d9dee5;
  --good: #17734a; --good-fill: #e4f5ec; --warn: #8a5a00; --warn-fill: #fdf1d6;
  --bad: #b3261e; --bad-fill: #fde8e6; --none: #5b6875; --none-fill: #eceff3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151b; --card: #18202a; --ink: #e6ebf1; --soft: #9aa7b5; --line: #2c3743;
    --good: #5fd39b; --good-fill: #14332a; --warn: #f0bd5a; --warn-fill: #3a2d10;
    --bad: #ff8a80; --bad-fill: #43201f; --none: #9aa7b5; --none-fill: #232d38;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: center; }
header div { flex: 1 1 20rem; min-width: 0; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.125rem; margin: 2.25rem 0 .75rem; }
p { margin: .25rem 0; }
.kicker { color: var(--soft); font-size: .875rem; letter-spacing: .02em; }
.badge { padding: .75rem 1.5rem; border: 2px solid; border-radius: .75rem; font-weight: 700;
  font-size: 1.375rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
.picture { margin-top: 1.5rem; padding: 1.25rem; overflow-x: auto; }
.picture svg { display: block; width: 100%; min-width: 44rem; height: auto; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem;
  margin: 1rem 0 0; font-size: .875rem; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
code { font: .8125rem/1.5 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
ul.problems { list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem; }
ul.problems li { padding: .875rem 1.125rem; border-left-width: .3125rem; overflow-wrap: anywhere; }
.remedy { color: var(--soft); }
table { width: 100%; border-collapse: collapse; font-size: .875rem; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .5rem .875rem; vertical-align: top; border-top: 1px solid var(--line); }
tr:first-child > th { border-top: 0; }
td.rule { width: 18rem; font-weight: 600; }
td.found { overflow-wrap: anywhere; }
.chip { display: inline-block; padding: 0 .625rem; border-radius: 1rem; font-size: .8125rem;
  font-weight: 600; white-space: nowrap; }
.affirming { color: var(--good); border-color: var(--good); }
.warning { color: var(--warn); border-color: var(--warn); }
.contraindicated { color: var(--bad); border-color: var(--bad); }
.none { color: var(--none); border-color: var(--none); }
.chip.affirming, .badge.affirming { background: var(--good-fill); }
.chip.warning, .badge.warning { background: var(--warn-fill); }
.chip.contraindicated, .badge.contraindicated { background: var(--bad-fill); }
.chip.none, .badge.none { background: var(--none-fill); }
ul.problems li { color: inherit; }
ul.problems li.contraindicated { border-left-color: var(--bad); }
ul.problems li.warning { border-left-color: var(--warn); }
.vector { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; padding: 1rem 1.125rem;
  font-size: .875rem; }
.notes { color: var(--soft); font-size: .875rem; padding-left: 1.125rem; }
svg text { font-family: inherit; fill: var(--ink); }
svg .small { font-size: 13px; fill: var(--soft); }
svg .name { font-size: 18px; font-weight: 700; }
svg .edge-label { font-size: 12.5px; fill: var(--soft); }
svg g.affirming { --mark: var(--good); --fill: var(--good-fill); }
svg g.warning { --mark: var(--warn); --fill: var(--warn-fill); }
svg g.contraindicated { --mark: var(--bad); --fill: var(--bad-fill); }
svg g.none { --mark: var(--none); --fill: var(--none-fill); }
svg rect { fill: var(--fill); stroke: var(--mark); stroke-width: 2; }
svg line, svg path { stroke: var(--mark); stroke-width: 3; fill: none; stroke-linecap: round;
  stroke-linejoin: round; }
svg .disc { fill: var(--card); stroke: var(--mark); stroke-width: 2; }
@media print { body { background: none; } .card { break-inside: avoid; } }
"""
