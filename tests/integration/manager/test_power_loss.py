"""Power lost at each step of what renews the host's secrets: one whole generation is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tandem.manager.identity import read_identity
from tests.integration.manager.host_runs import done, refused, run
from tests.integration.manager.running_manager import RunningManager

# The Manager, killed as by power loss before one step of what it does for a new master key: a
# command to the pTPM, or a write, sync, rename or removal on disk.
CRASHING = """
import os, signal, sys
from tandem.manager import changes, restoring, secrets_requests, store_file, tcti
from tandem.manager.__main__ import main
from tandem.cli.main import main as command

at, count, armed = int(sys.argv.pop(1)), 0, False

def stepping(owner, name):
    real = getattr(owner, name)
    def wrapped(*arguments, **named):
        global count
        count += armed
        if armed and count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    setattr(owner, name, wrapped)

stepping(tcti.DescriptorTcti, "do_transmit")
stepping(store_file.StoreFile, "write")
for name in ("fsync", "rename", "unlink"):
    stepping(os, name)

def arming(real):
    def wrapped(*arguments, **named):
        global armed
        armed = True
        try:
            return real(*arguments, **named)
        finally:
            armed = False
    return wrapped

changes.renew = secrets_requests.renew = arming(changes.renew)
restoring.restore = arming(restoring.restore)
sys.exit(command() if {"recover", "restore"} & set(sys.argv) else main())
"""


def test_power_loss_at_any_step_of_a_new_master_key_leaves_one_whole_generation(
    manager: RunningManager, key: Path
) -> None:
    # Given a host with a vTPM that was written to
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    ak, written = manager.status().host_ak_name, 1
    manager.stop()
    generations = [read_identity(manager.paths.identity).generation]
    # When the Manager dies before each single step of a new master key, one after the other
    for step in range(1, 1000):
        process = start_crashing(manager, step)
        found = run(manager, "rotate", "--json", "--key", str(key))
        ended = found.returncode == 0
        if ended:
            process.terminate()
        assert process.wait(20) == (0 if ended else -9), found.stderr
        generations.append(read_identity(manager.paths.identity).generation)
        # Then the host starts after it, the same, and goes on writing
        manager.start()
        assert manager.status().host_ak_name == ak
        vtpm = manager.vtpm("web")
        assert vtpm.welcome.state_version == written
        written += 1
        vtpm.commit(written)
        manager.stop()
        if ended:
            break
    # And each attempt was before its switch, or after it
    assert step > 20, "the steps were not seen"
    gains = [after - before for before, after in pairwise(generations)]
    assert set(gains) == {0, 1}
    assert gains == sorted(gains)


def test_power_loss_during_a_recovery_leaves_a_host_that_is_recovered_or_starts(
    stopped: RunningManager,
    recovery_key: str,
    changed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a host that an unplanned change locked
    monkeypatch.setenv("PYTHONPATH", str(changed))
    key = tmp_path / "new.key"
    words = ["--host", str(stopped.paths.root), "host", "recover", "--approval-key", str(key)]
    # When its recovery dies at one step after another
    for step in range(1, 1000, 6):
        crashed = subprocess.run(
            [sys.executable, "-c", CRASHING, str(step), *words, "--json"],
            input=recovery_key,
            capture_output=True,
            text=True,
            check=False,
        )
        if read_identity(stopped.paths.identity).generation == 2:
            break
        # Then either nothing has changed, and no key was left for it
        assert json.loads(crashed.stderr)["code"] == "TDM-OFFLINE-ENDED"
        assert not key.exists()
        assert refused(stopped.start) == "TDM-HOST-STATE-CHANGED"
    # Or the host starts, whoever saw its new recovery key, and its approval key is there
    assert step > 20, "the steps were not seen"
    stopped.start()
    done(stopped, "rotate", "--key", str(key))


@pytest.mark.parametrize(("what", "stride"), [("the same pTPM", 8), ("another machine", 15)])
def test_power_loss_during_a_restore_leaves_the_host_as_it_was_or_restored(
    manager: RunningManager,
    recovery_key: str,
    key: Path,
    tmp_path: Path,
    work: Path,
    what: str,
    stride: int,
) -> None:
    # Given a backup, and a state of a vTPM that was made durable after it
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    backup = tmp_path / "backup"
    done(manager, "backup", str(backup))
    vtpm.commit(2)
    manager.stop()
    goes_on = what == "the same pTPM"
    host = manager if goes_on else RunningManager(work / f"elsewhere-{tmp_path.name}")
    words = ["--host", str(host.paths.root), "host", "restore", str(backup), "--json"]
    # When its restore dies at one step after another
    for step in range(1, 1000, stride):
        crashed = subprocess.run(
            [sys.executable, "-c", CRASHING, str(step), *words, "--approval-key", str(key)],
            input=recovery_key,
            capture_output=True,
            text=True,
            check=False,
        )
        is_made = host.paths.identity.exists()
        if is_made and read_identity(host.paths.identity).epoch == 2:
            break
        # Then either the host is what it was
        assert json.loads(crashed.stderr)["code"] == "TDM-OFFLINE-ENDED"
        assert is_made == goes_on
        if goes_on:
            host.start()
            assert host.vtpm("web").welcome.state_version == 2
            host.stop()
    # Or it is restored
    assert step > 20, "the steps were not seen"
    host.start()
    assert host.vtpm("web").welcome.state_version == 1
    host.close()


def start_crashing(manager: RunningManager, step: int) -> subprocess.Popen[bytes]:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", CRASHING, str(step), "--host", str(manager.paths.root)]
    process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=[writing])
    os.close(writing)
    with open(reading, "rb") as ready:
        assert ready.read(1) == b"\1"
    return process
