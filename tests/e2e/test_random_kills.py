"""A short campaign of random kills breaks nothing; on a Tandem that is broken it says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MOMENTS, FEW = 12, 4
SECONDS = 240
BROKEN = """\
import sys

if "tandem.vtpm" in sys.orig_argv:  # the zygote, and with it every vTPM
{lines}
"""
OUTLIVES = """\
    import select

    from tandem.vtpm import process

    run_vtpm = process.run_vtpm

    def run_and_stay(*arguments):
        status = run_vtpm(*arguments)
        select.poll().poll(4000)
        return status

    process.run_vtpm = run_and_stay
"""
FORGETS = """\
    from tandem.vtpm.saving import Saver

    def forget(saver):
        saver.engine.changed = False

    Saver.save = forget
"""


def campaign(moments: int, *first_on_path: Path) -> tuple[int, dict[str, Any]]:
    """Run a campaign on one host; gives its exit status and its counts."""
    path = ":".join(map(str, (*first_on_path, ROOT / "src", ROOT)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "kills", "-n", str(moments)),
            *("--hosts", "1", "--seed", "7", "--json"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout, done.stderr
    counts: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, counts


def test_nothing_breaks_whoever_is_killed_whenever() -> None:
    # Given a host with three guests that write, reboot and stop
    # When any of its processes are killed at random moments
    status, counts = campaign(MOMENTS)
    # Then every rule held, and all was well again after each burst
    assert counts["violations"] == []
    assert status == 0
    assert counts["moments"] >= MOMENTS
    assert sum(counts["kills"].values()) >= MOMENTS
    assert counts["acknowledged"] > 0
    assert counts["bursts"] > 0


@pytest.mark.parametrize(
    ("fault", "rule"),
    [(OUTLIVES, "vtpm-outlives-guest"), (FORGETS, "lost")],
    ids=["a-vtpm-outlives-its-guest", "an-acknowledged-write-is-forgotten"],
)
def test_a_broken_tandem_is_found_out(tmp_path: Path, fault: str, rule: str) -> None:
    # Given a Tandem whose vTPMs do not keep a promise
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(lines=fault))
    # When the same kills hit it
    status, counts = campaign(FEW, tmp_path)
    # Then the campaign fails, and says which rule was broken
    assert status == 1
    assert rule in {each["rule"] for each in counts["violations"]}
