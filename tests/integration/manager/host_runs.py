"""`tandem host` as a person gives it, on one host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tandem.errors import TandemError
from tests.integration.manager.running_manager import RunningManager


def run(
    manager: RunningManager, *arguments: str, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tandem", "--host", str(manager.paths.root), "host", *arguments],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def done(manager: RunningManager, *arguments: str, typed: str = "") -> dict[str, Any]:
    """Run a command that must succeed, and give what it prints as JSON."""
    found = run(manager, *arguments, "--json", typed=typed)
    assert found.returncode == 0, found.stderr
    record: dict[str, Any] = json.loads(found.stdout)
    return record


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(TandemError) as raised:
        act()
    return raised.value.code
