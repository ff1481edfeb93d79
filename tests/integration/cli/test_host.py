"""`tandem host init`, interrupted, killed or run twice: a whole host, or nothing that misleads."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.settings import HostPaths
from tests.integration.manager.running_manager import ROOT, ready, refusal, tandem

pytestmark = pytest.mark.skipif(not ready(), reason="needs root and swtpm")
INTERRUPTED = 130
MADE_SECONDS = 30.0
AS_NOBODY = """
import os, sys
import tandem.manager.host
from tandem.cli import host, main
os.setresuid(65534, 65534, 65534)
sys.exit(main.main(sys.argv[1:]))
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture
def host() -> Iterator[Path]:
    """Give a place for a host that the Manager's own user reaches."""
    directory = Path(tempfile.mkdtemp(prefix="tandem-cli-", dir="/var/tmp"))
    directory.chmod(0o711)
    yield directory / "host"
    shutil.rmtree(directory)


def begin(host: Path) -> subprocess.Popen[bytes]:
    """Begin to make a host."""
    command = [sys.executable, "-m", "tandem", "--host", str(host), "host", "init"]
    nothing = subprocess.DEVNULL
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests were put aside
    try:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=nothing, stderr=nothing)
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + MADE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"waited in vain for {path}"
        time.sleep(0.002)


def processes_of(host: Path) -> list[str]:
    """Give the command lines that name a host's directory; nobody else's have such a name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(host) in words:
            found.append(words)
    return found


def wait_until_none(host: Path) -> None:
    deadline = time.monotonic() + MADE_SECONDS
    while processes_of(host):
        assert time.monotonic() < deadline, processes_of(host)
        time.sleep(0.01)


# What exists once each stage has begun: directories, the TPM's own CA, its state, the store.
STAGES = ("manager", "ptpm/ca", "ptpm/tpm2-00.permall", "manager/store.sqlite")


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_at_any_stage_leaves_nothing(host: Path, stage: str) -> None:
    # Given a host that is being made
    process = begin(host)
    wait_for(host / stage)
    # When Ctrl-C is pressed
    process.send_signal(signal.SIGINT)
    # Then it ends with the status of an interrupt, without a file or a process left
    assert process.wait(MADE_SECONDS) == INTERRUPTED
    assert not host.exists()
    wait_until_none(host)


def test_what_a_kill_leaves_is_refused_by_name_and_can_be_made_anew(host: Path) -> None:
    # Given a host whose making was killed
    process = begin(host)
    wait_for(host / "manager" / "store.sqlite")
    process.kill()
    process.wait()
    wait_until_none(host)
    assert not HostPaths(host).identity.exists()
    # When it is started, and when it is made again
    up = tandem(host, "host", "up", "--json")
    again = tandem(host, "host", "init", "--json")
    # Then neither takes it for a host, and nothing is thrown away unasked
    assert refusal(up) == ("TDM-HOST-NOT-INITIALISED", 3)
    assert refusal(again) == ("TDM-HOST-HALF-MADE", 5)
    assert (host / "manager" / "store.sqlite").exists()
    # And what the error says to remove is all that is in the way
    shutil.rmtree(host / "manager")
    shutil.rmtree(host / "ptpm")
    assert tandem(host, "host", "init").returncode == 0


def test_a_lost_identity_does_not_cost_the_store(host: Path) -> None:
    # Given a host that lost its identity
    assert tandem(host, "host", "init").returncode == 0
    paths = HostPaths(host)
    store = (paths.manager / "store.sqlite").read_bytes()
    paths.identity.unlink()
    # When somebody makes it again
    done = tandem(host, "host", "init", "--json")
    # Then that is refused and the store is what it was
    assert refusal(done) == ("TDM-HOST-HALF-MADE", 5)
    assert (paths.manager / "store.sqlite").read_bytes() == store


def test_of_two_at_once_one_makes_the_host(host: Path) -> None:
    # Given an empty place
    # When two begin to make a host there at the same moment
    processes = [begin(host), begin(host)]
    statuses = sorted(process.wait(MADE_SECONDS) for process in processes)
    # Then one did, the other was told so, and the host works
    assert statuses[0] == 0
    assert statuses[1] in (3, 5)
    assert tandem(host, "host", "init", "--json").returncode == 5
    assert HostPaths(host).identity.exists()


def test_what_was_in_the_directory_before_stays(host: Path) -> None:
    # Given a directory with a library in it
    library = host / "library" / "library.toml"
    library.parent.mkdir(parents=True, mode=0o711)
    host.chmod(0o711)
    library.write_text("mine")
    # When a host cannot be made there
    done = tandem(host, "host", "init", "--json", "--pcrs", "0")
    # Then only the library is there
    assert refusal(done) == ("TDM-SEAL-UNMEASURED-PCR", 5)
    assert [path.name for path in host.iterdir()] == ["library"]
    assert library.read_text() == "mine"


def test_a_directory_closed_to_the_managers_user_is_refused(host: Path) -> None:
    # Given a directory of the administrator's own
    host.mkdir(mode=0o700)
    # When a host is made there
    done = tandem(host, "host", "init", "--json")
    # Then the error says so, before anything is made
    assert refusal(done) == ("TDM-HOST-UNREACHABLE", 3)
    assert list(host.iterdir()) == []


@pytest.mark.parametrize("command", ["init", "up", "down"])
def test_a_user_without_root_is_told_so(host: Path, command: str) -> None:
    # Given a user who is not root
    # When it asks for what takes root
    words = ["--host", str(host), "host", command, "--json"]
    asking = [sys.executable, "-c", AS_NOBODY, *words]
    done = subprocess.run(asking, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    # Then the error says so, and nothing was made
    assert refusal(done) == ("TDM-NOT-ROOT", 3)
    assert not host.exists()
