"""Write docs/reference and the claims of the threat model; with `--check` only compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from reference_commands import commands_page
from reference_errors import errors_page
from reference_threats import threats_page
from tandem.appraisal.rules import OPTIONAL, Rule
from tandem.broker.figures import DECLARED as BROKER_METRICS
from tandem.builder.lifecycle import markdown_rows, mermaid_lines
from tandem.cli.main import GROUPS, build_parser
from tandem.manager.metrics import DECLARED as MANAGER_METRICS

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "reference"
THREATS: Final = ROOT / "docs" / "explanation" / "threats.md"
LIFECYCLE_HEAD: Final = """\
# Life of a pair

Generated from `tandem.builder.lifecycle` by `make docs`; do not edit.

A pair is one launch of a guest with its vTPM. The builder stores the next state, then carries the
actions out; an event that has no row in a state is refused with
[TDM-PAIR-EVENT-OUT-OF-PLACE](errors.md#tdm-pair-event-out-of-place). `make model` visits each
state that pairs can reach under this table, with crashes of each part and notices that come late,
and checks the invariants I1 to I5; see [how](../explanation/lifecycle.md).
"""

STAR: Final = r" \*"
FINDINGS_HEAD: Final = """\
# Findings of a verdict

Generated from `tandem.appraisal.rules` by `make docs`; do not edit.

An appraisal gives one finding for each of these claims, in this order. A claim that could not be
checked is a warning that says so, and no verdict with a warning is *trusted*. Claims with a star
are judged where the verifier is given what they need (the host's logs, a revocation list), or where
the policy demands it.

| finding | claim | link of the chain | where it is broken |
| --- | --- | --- | --- |
"""
METRICS_HEAD: Final = """\
# Metrics

Generated from the source by `make docs`; do not edit.

`tandem host metrics` prints them in Prometheus' text format, or with `--json` as JSON. The Manager
answers root, and the users to whom [the host's table](../how-to/run-under-systemd.md) gives the
right `observe`.

| metric | kind | what it says |
| --- | --- | --- |
"""


def pages() -> dict[Path, str]:
    """Give every generated page by its path."""
    return {
        REFERENCE / "commands.md": commands_page(build_parser(*GROUPS)),
        REFERENCE / "errors.md": errors_page(ROOT / "src" / "tandem"),
        REFERENCE / "findings.md": findings_page(),
        REFERENCE / "metrics.md": metrics_page(),
        REFERENCE / "lifecycle.md": "\n".join(
            [LIFECYCLE_HEAD, *mermaid_lines(), "", *markdown_rows(), ""]
        ),
        THREATS: threats_page(THREATS, ROOT / "tests" / "attacks"),
    }


def metrics_page() -> str:
    """Write one row for each metric of Manager and broker."""
    return METRICS_HEAD + "".join(
        f"| `{metric.name}` | {metric.kind} | {metric.help} |\n"
        for metric in (*MANAGER_METRICS, *BROKER_METRICS)
    )


def findings_page() -> str:
    """Write one row for each rule of an appraisal."""
    return FINDINGS_HEAD + "".join(
        f"| {_starred(rule)} | {rule.claim} | {rule.link} | {rule.remedy} |\n" for rule in Rule
    )


def _starred(rule: Rule) -> str:
    return f"{rule.title}{STAR}" if rule in OPTIONAL else rule.title


def main(check: bool) -> int:
    """Write the pages, or say which are stale."""
    stale = [path for path, text in pages().items() if not _is(path, text)]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path])
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(check=sys.argv[1:] == ["--check"]))
