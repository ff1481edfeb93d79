"""A plugin of pytest: says what each test came to, as lines of JSON, while they run.

`tandem attacks` reads them (`tandem.cli.attack_runs`).  A line has `test` (its node id), and either
`due` (it is to run), or `begins`, or what became of it: `outcome`, `seconds`, `said`.
"""

from __future__ import annotations

import json
import os

import pytest

MOST_SAID = 6000  # characters of what a failed test says: the end says most


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where the lines go."""
    parser.addoption("--outcomes", type=int, required=True, metavar="DESCRIPTOR")


def pytest_configure(config: pytest.Config) -> None:
    """Report into the descriptor."""
    config.pluginmanager.register(Outcomes(config.getoption("--outcomes")))


class Outcomes:
    """What a run reports, test by test."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._worst: dict[str, tuple[str, str]] = {}
        self._seconds: dict[str, float] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say that a file cannot be imported: none of its tests runs."""
        if report.failed:
            said = str(report.longrepr)[-MOST_SAID:]
            self._say(test=report.nodeid, outcome="error", seconds=0.0, said=said)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say which tests are to run: one that is not heard of again was not run."""
        for item in session.items:
            self._say(test=item.nodeid, due=True)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say that a test begins, its fixtures first."""
        self._say(test=nodeid, begins=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first of its three phases that did not pass, and say it after the last."""
        test = report.nodeid
        self._seconds[test] = self._seconds.get(test, 0.0) + report.duration
        if report.outcome != "passed":
            said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            of_fixture = report.failed and report.when != "call"
            worst = "error" if of_fixture else str(report.outcome)
            self._worst.setdefault(test, (worst, said[-MOST_SAID:]))
        if report.when == "teardown":
            outcome, said = self._worst.pop(test, ("passed", ""))
            self._say(test=test, outcome=outcome, seconds=self._seconds.pop(test), said=said)

    def _say(self, **what: object) -> None:
        os.write(self._descriptor, json.dumps(what).encode() + b"\n")
