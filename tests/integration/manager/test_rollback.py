"""The newest state survives everything, and no older one comes back: on a real pTPM and disk."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.channel import Closed
from tandem.errors import HostError, Refused
from tandem.evidence.pair_record import parse_pair_record
from tandem.wire.manager_rpc import CommitState, StateCommitted
from tests.integration.manager.running_manager import (
    RunningManager,
    alive,
    refusal,
    tandem,
    wait_until,
)

# The Manager, killed as by power loss at one step of its commit number `AT`.
CRASHING = """
import os, signal, sys
from tandem.manager import embedded, store
from tandem.manager.__main__ import main
from tandem.manager.ptpm import Ptpm

step, at = sys.argv.pop(1), int(sys.argv.pop(1))
commit, extend, sync = store.Store.commit, Ptpm.extend_chain, embedded.sync
commits = 0

def crash():
    os.kill(os.getpid(), signal.SIGKILL)

def crashing_commit(self, *, anchor=True):
    global commits
    commits += 1
    if (step, commits) == ("before the disk", at):
        crash()
    commit(self, anchor=anchor)

def crashing_extend(self, data):
    if (step, commits) == ("before the pTPM", at):
        crash()
    extend(self, data)
    if (step, commits) == ("after the pTPM", at):
        crash()

def crashing_sync(directory):
    if (step, commits) == ("before the pTPM's own disk", at):
        crash()
    sync(directory)

store.Store.commit, Ptpm.extend_chain = crashing_commit, crashing_extend
embedded.sync = crashing_sync
sys.exit(main())
"""
STEPS = {
    "before the disk": 1,
    "before the pTPM": 2,
    "before the pTPM's own disk": 2,
    "after the pTPM": 2,
}


def start_crashing(manager: RunningManager, step: str, at: int) -> subprocess.Popen[bytes]:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", CRASHING, step, str(at), "--host", str(manager.paths.root)]
    process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=[writing])
    os.close(writing)
    with open(reading, "rb") as ready:
        assert ready.read(1) == b"\1"
    return process


def store_files(manager: RunningManager) -> list[Path]:
    return sorted(manager.paths.manager.glob("store.sqlite*"))


def keep_store(manager: RunningManager) -> Path:
    """Copy the store's files, as a backup or a thief does."""
    kept = manager.paths.root / "kept"
    kept.mkdir()
    for path in store_files(manager):
        shutil.copy2(path, kept)
    return kept


def put_back(manager: RunningManager, kept: Path) -> None:
    for path in store_files(manager):
        path.unlink()
    for path in kept.iterdir():
        target = manager.paths.manager / path.name
        shutil.copy2(path, target)
        owner = manager.paths.manager.stat()
        os.chown(target, owner.st_uid, owner.st_gid)


def test_a_restart_keeps_every_acknowledged_state(manager: RunningManager) -> None:
    # Given a vTPM with three states
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    for version in (1, 2, 3):
        vtpm.commit(version)
    # When the Manager is stopped in order, and started
    manager.stop()
    manager.start()
    # Then it is the same vTPM, and its newest state is known
    again = manager.vtpm("web").welcome
    assert (again.key, again.vtpm_id) == (vtpm.welcome.key, vtpm.welcome.vtpm_id)
    assert (again.state_version, again.state_digest) == (3, (3).to_bytes(32))
    assert again.launch_number == 2


def test_a_kill_loses_nothing_that_was_acknowledged(manager: RunningManager) -> None:
    # Given a vTPM whose state was acknowledged
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    # When power is lost, and the Manager started again
    manager.kill()
    manager.start()
    # Then the state is there
    assert manager.vtpm("web").welcome.state_version == 1


@pytest.mark.parametrize("step", STEPS)
def test_power_loss_at_any_step_of_a_commit_leaves_one_newest_state(
    stopped: RunningManager, step: str
) -> None:
    # Given a vTPM with one state, and a Manager that dies at a step of the next commit
    process = start_crashing(stopped, step, at=3)  # after OpenPair's and the first state's
    vtpm = stopped.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    with pytest.raises(Closed):
        vtpm.channel.ask(CommitState(version=2, digest=(2).to_bytes(32)), StateCommitted)
    assert process.wait(10) == -9
    # When the host starts again, and once more
    found = []
    for _ in range(2):
        stopped.start()
        found.append(stopped.vtpm("web").welcome.state_version)
        stopped.stop()
    # Then it starts on the state before where the disk was not reached, else on the new one
    assert found == [STEPS[step]] * 2


def test_an_older_store_is_refused_by_name(manager: RunningManager) -> None:
    # Given a copy of the store, and a state that was recorded after it
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    manager.stop()
    kept = keep_store(manager)
    manager.start()
    manager.vtpm("web").commit(2)
    manager.stop()
    # When the copy is put back
    put_back(manager, kept)
    with pytest.raises(Refused) as raised:
        manager.start()
    # Then the host does not start, and names both versions
    assert raised.value.code == "TDM-ROLLBACK-STORE"
    versions = [int(each) for each in re.findall(r"version (\d+)", raised.value.problem)]
    assert len(versions) == 2
    assert versions[0] < versions[1]


def test_the_choice_of_a_window_is_kept_and_holds_from_the_next_start_on(
    manager: RunningManager,
) -> None:
    # Given a strict host with a pair
    before = manager.vtpm("web").prepare()
    # When its administrator chooses a window, and starts it anew
    done = tandem(manager.paths.root, "host", "rollback", "window", "--seconds", "120", "--json")
    assert done.returncode == 0, done.stderr
    meanwhile = manager.vtpm("other").prepare()
    manager.stop()
    manager.start()
    after = manager.vtpm("third").prepare()
    # Then each pair's record says what held for it
    windows = [
        parse_pair_record(each.record).rollback_window for each in (before, meanwhile, after)
    ]
    assert windows == [0, 0, 120]
    assert manager.status().rollback_window == 120
    # And one that is too long is refused
    done = tandem(manager.paths.root, "host", "rollback", "window", "--seconds", "9999", "--json")
    assert refusal(done) == ("TDM-ROLLBACK-WINDOW", 2)


def test_an_older_store_with_the_newest_link_is_refused(manager: RunningManager) -> None:
    # Given an older store, and the link of a commit that the pTPM has not heard of
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    manager.stop()
    kept = keep_store(manager)
    process = start_crashing(manager, "before the pTPM", at=2)
    vtpm = manager.vtpm("web")
    with pytest.raises(Closed):
        vtpm.commit(2)
    assert process.wait(10) == -9
    with sqlite3.connect(store_files(manager)[0]) as newest:
        link = newest.execute("SELECT link FROM chain").fetchone()
    newest.close()
    # When both are put together
    put_back(manager, kept)
    with sqlite3.connect(store_files(manager)[0]) as forged:
        forged.execute("UPDATE chain SET link = ?", link)
    forged.close()
    for path in store_files(manager):
        os.chown(path, *(manager.paths.manager.stat().st_uid,) * 2)
    # Then the host does not start on it
    with pytest.raises(HostError) as raised:
        manager.start()
    assert raised.value.code == "TDM-STORE-DAMAGED"


def test_another_hosts_store_is_refused(manager: RunningManager) -> None:
    # Given a host, and the store of one that went its own way from the same beginning
    manager.vtpm("web")
    manager.stop()
    kept = keep_store(manager)
    process = start_crashing(manager, "after the pTPM", at=99)
    manager.vtpm("other")
    process.terminate()
    process.wait(10)
    # When that store is put in its place
    put_back(manager, kept)
    # Then the host does not start on it
    with pytest.raises(Refused) as raised:
        manager.start()
    assert raised.value.code == "TDM-ROLLBACK-STORE"


def test_a_changed_host_does_not_get_the_master_key(
    manager: RunningManager, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a host, and Tandem's own code changed by one line
    manager.stop()
    changed = source.parent / "changed"
    shutil.copytree(source, changed)
    with (changed / "tandem" / "log.py").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setenv("PYTHONPATH", str(changed))
    # When it starts
    with pytest.raises(Refused) as raised:
        manager.start()
    # Then the pTPM refuses, and with the former code it opens again
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"
    monkeypatch.setenv("PYTHONPATH", str(source))
    manager.start()
    assert manager.status().open_pairs == 0


def test_one_manager_at_a_time(manager: RunningManager) -> None:
    # Given a running Manager
    pid = manager.pid
    # When another is started beside it
    with pytest.raises(HostError) as raised:
        manager.service.start()
    # Then it is refused, and the first serves on
    assert raised.value.code == "TDM-MANAGER-RUNNING"
    assert (manager.pid, manager.status().open_pairs) == (pid, 0)


def test_a_killed_manager_takes_its_ptpm_along(manager: RunningManager) -> None:
    # Given a Manager and its pTPM
    swtpm = manager.swtpm()
    # When the Manager is killed
    manager.kill()
    # Then the pTPM ends, so that the next one has the state to itself
    wait_until(lambda: not alive(swtpm))
    manager.start()


def test_a_swapped_ptpm_is_refused(manager: RunningManager, template: Path) -> None:
    # Given a host, and another host's pTPM
    manager.stop()
    other = template.parent / "other"
    if not other.exists():
        subprocess.run(
            [sys.executable, "-m", "tandem", "--host", str(other), "host", "init"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    shutil.rmtree(manager.paths.ptpm)
    subprocess.run(["cp", "-a", str(other / "ptpm"), str(manager.paths.ptpm)], check=True)
    # When it is put in its place
    with pytest.raises(Refused) as raised:
        manager.start()
    # Then it cannot load the host's keys
    assert raised.value.code == "TDM-PTPM-FOREIGN-KEYS"
