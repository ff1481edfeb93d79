"""Write docs/reference from the source; with `--check` only compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from reference_commands import commands_page
from reference_errors import errors_page
from tandem.appraisal.rules import Rule
from tandem.builder.lifecycle import markdown_rows
from tandem.cli.main import GROUPS, build_parser

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "reference"
LIFECYCLE_HEAD: Final = """\
# Life of a pair

Generated from `tandem.builder.lifecycle` by `make docs`; do not edit.

A pair is one launch of a guest with its vTPM. The builder stores the next state, then carries the
actions out; an event that has no row in a state is refused with
[TDM-PAIR-EVENT-OUT-OF-PLACE](errors.md#tdm-pair-event-out-of-place).
"""

FINDINGS_HEAD: Final = """\
# Findings of a verdict

Generated from `tandem.appraisal.rules` by `make docs`; do not edit.

An appraisal gives one finding for each of these claims, in this order. A claim that could not be
checked is a warning that says so, and no verdict with a warning is *trusted*.

| finding | claim | link of the chain | where it is broken |
| --- | --- | --- | --- |
"""


def pages() -> dict[Path, str]:
    """Give every generated page by its path."""
    return {
        REFERENCE / "commands.md": commands_page(build_parser(*GROUPS)),
        REFERENCE / "errors.md": errors_page(ROOT / "src" / "tandem"),
        REFERENCE / "findings.md": findings_page(),
        REFERENCE / "lifecycle.md": "\n".join([LIFECYCLE_HEAD, *markdown_rows(), ""]),
    }


def findings_page() -> str:
    """Write one row for each rule of an appraisal."""
    return FINDINGS_HEAD + "".join(
        f"| {rule.title} | {rule.claim} | {rule.link} | {rule.remedy} |\n" for rule in Rule
    )


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
