"""Fixtures: hosts with an embedded pTPM, made once for the session and copied for each test."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.manager.running_manager import ROOT, RunningManager, tandem


@pytest.fixture(scope="session")
def work() -> Iterator[Path]:
    """Give a directory that the Manager's own user reaches."""
    directory = Path(tempfile.mkdtemp(prefix="tandem-manager-", dir="/var/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session", autouse=True)
def source(work: Path) -> Iterator[Path]:
    """Let the processes that tests start run a copy of the source.

    A host is sealed to its code: an edit while the tests run would lock it.
    """
    copy = work / "source"
    shutil.copytree(ROOT / "src", copy)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(copy))
        yield copy


@pytest.fixture(scope="session")
def template(work: Path, source: Path) -> Path:
    """Make a host."""
    host = work / "template"
    done = tandem(host, "host", "init", "--json", "--approval-key", str(work / "approval.key"))
    assert done.returncode == 0, done.stderr
    (work / "init.json").write_text(done.stdout)
    return host


@pytest.fixture
def stopped(template: Path, request: pytest.FixtureRequest) -> Iterator[RunningManager]:
    """Give a new host whose Manager does not run yet."""
    host = template.parent / f"host-{abs(hash(request.node.nodeid)):x}"
    subprocess.run(["cp", "-a", str(template), str(host)], check=True)
    manager = RunningManager(host)
    yield manager
    manager.close()
    shutil.rmtree(host)


@pytest.fixture
def manager(stopped: RunningManager) -> RunningManager:
    """Give a new host whose Manager runs."""
    stopped.start()
    return stopped


@pytest.fixture
def key(work: Path) -> Path:
    """Give the approval key's file."""
    return work / "approval.key"


@pytest.fixture
def recovery_key(work: Path, template: Path) -> str:
    """Give the recovery key that `host init` showed."""
    return str(json.loads((work / "init.json").read_text())["recovery_key"])


@pytest.fixture
def changed(source: Path, tmp_path: Path) -> Path:
    """Give another version of Tandem: of an embedded host that is another state."""
    copy = source.parent / f"changed-{tmp_path.name}"
    shutil.copytree(source, copy)
    with (copy / "tandem" / "log.py").open("a") as file:
        file.write("# changed\n")
    return copy
