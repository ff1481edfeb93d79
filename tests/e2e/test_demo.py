"""`make demo` shows what the README says that it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS = (
    "host provisioned",
    "library signed",
    "guest started",
    "launch measured",
    "deep quote",
    "verdict: trusted",
    "(a) a kernel changed by one byte: refused at build",
    "(b) another command line, allowed by its own manifest: not trusted: command-line",
    "(d) the deep quote from before, replayed: not trusted: nonce",
    "(c) the pair's guest killed: vTPM gone after",
    "plain swtpm and QEMU: the copy's quote is accepted as the original's",
    "on Tandem, beside the running original: refused",
    "on Tandem, after the original stopped: refused, TDM-VTPM-OTHER-LIBRARY",
    "by somebody who has the library's key: not trusted: command-line",
    "The report: ",
)


def test_the_demonstration_shows_every_step(image: Path, tmp_path: Path) -> None:
    # Given the guest image
    # When the demonstration runs
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--image", image, "--work", tmp_path / "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    # Then every step is there, in this order, and the report at the end is a page
    assert done.returncode == 0, done.stdout + done.stderr
    at = 0
    for step in STEPS:
        at = done.stdout.index(step, at)
    report = Path(done.stdout.rsplit("The report: ", 1)[1].strip())
    assert report.read_text().startswith("<!DOCTYPE html>")
