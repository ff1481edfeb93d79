"""A backup of a running host, and its way back: a new epoch, never a silent one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import Refused
from tandem.evidence.pair_record import parse_pair_record
from tandem.manager.identity import read_identity
from tandem.settings import UID_BASE, HostPaths
from tandem.values import Secret
from tandem.vtpm.state import StateSlots, VtpmState, open_slots
from tandem.wire.manager_rpc import CommitState, StateCommitted
from tests.integration.manager.running_manager import (
    RunningManager,
    Vtpm,
    refusal,
    tandem,
    wait_until,
)

STATE = VtpmState(engine=b"what a TPM keeps" * 1000, ek=b"ek", ak=b"ak")


class Guest:
    """A vTPM of the Manager that keeps its state in slots on disk, as vTPM processes do."""

    def __init__(self, manager: RunningManager, name: str, group: str = "default") -> None:
        self.vtpm: Vtpm = manager.vtpm(name, group=group)
        self.place = manager.paths.vtpm / name
        self.place.mkdir(mode=0o700, exist_ok=True)
        directory = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        welcome = self.vtpm.welcome
        self.slots = StateSlots(
            open_slots(directory, 0),
            Secret(welcome.state_key),
            welcome.vtpm_id,
            former=Secret(welcome.former_state_key or welcome.state_key),
        )
        os.close(directory)
        if welcome.state_version:
            self.slots.read_newest(welcome.state_version, welcome.state_digest)
        else:
            self.vtpm.prepare()

    def write(self, times: int = 1) -> None:
        """Make so many states durable."""
        for _ in range(times):
            digest = self.slots.write(STATE)
            commit = CommitState(version=self.slots.version + 1, digest=digest)
            self.vtpm.channel.ask(commit, StateCommitted)
            self.slots.committed()


def run(host: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tandem", "--host", str(host), "host", *arguments, "--json"],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def done(host: Path, *arguments: str, typed: str = "") -> dict[str, Any]:
    found = run(host, *arguments, typed=typed)
    assert found.returncode == 0, found.stderr
    record: dict[str, Any] = json.loads(found.stdout)
    return record


def standings(record: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {vtpm: (line["standing"], line["put_back"]) for vtpm, line in record["vtpms"].items()}


def epoch_of(vtpm: Vtpm) -> int:
    return parse_pair_record(vtpm.prepare().record).epoch


def test_a_restore_says_what_each_state_on_disk_is(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path
) -> None:
    # Given a backup of a running host with vTPMs, of which each goes another way after it
    names = ("current", "older", "newer", "missing", "damaged")
    guests = {name: Guest(manager, name) for name in names}
    older = manager.paths.vtpm / "older"
    guests["older"].write()
    shutil.copytree(older, tmp_path / "older")
    for name, guest in guests.items():
        guest.write(times=3 if name == "older" else 1)
    fresh = manager.vtpm("fresh")
    backup = tmp_path / "backup"
    assert done(manager.paths.root, "backup", str(backup))["without_newest_state"] == []
    guests["newer"].write(times=3)
    Guest(manager, "later").write()
    manager.stop()
    shutil.rmtree(older)
    shutil.copytree(tmp_path / "older", older)
    shutil.rmtree(manager.paths.vtpm / "missing")
    for slot in (manager.paths.vtpm / "damaged").iterdir():
        slot.write_bytes(b"noise")
    # When it is brought back
    arguments = ("restore", str(backup), "--approval-key", str(key))
    record = done(manager.paths.root, *arguments, typed=recovery_key)
    # Then each is named, and has the backup's state again
    assert standings(record) == {
        "current": ("current", False),
        "older": ("older", True),
        "newer": ("newer", True),
        "missing": ("missing", True),
        "damaged": ("damaged", True),
        "fresh": ("none", False),
        "later": ("unknown", False),
    }
    assert fresh.opened.launch_number == 1
    manager.start()
    for name in names:
        Guest(manager, name).write()
    # And the host is the same, in a new epoch that its pair records show
    assert (record["epoch"], record["same_ptpm"]) == (2, True)
    assert epoch_of(manager.vtpm("another")) == 2


def test_a_restore_on_another_machine_is_another_host(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path, work: Path
) -> None:
    # Given a backup, and a machine that has nothing but it
    Guest(manager, "web").write(times=2)
    before = manager.status().host_ak_name
    authority = manager.authority()
    backup = tmp_path / "backup"
    done(manager.paths.root, "backup", str(backup))
    manager.stop()
    other = RunningManager(work / f"other-{tmp_path.name}")
    # When it is brought back there
    arguments = ("restore", str(backup), "--approval-key", str(key))
    record = done(other.paths.root, *arguments, typed=recovery_key)
    # Then its vTPMs are there with their states, under another AK and another CA
    try:
        assert (record["same_ptpm"], record["epoch"]) == (False, 2)
        assert standings(record) == {"web": ("missing", True)}
        other.start()
        assert Guest(other, "web").vtpm.welcome.state_version == 2
        assert other.status().host_ak_name != before
        assert other.authority().der != authority.der
    finally:
        other.close()


def test_an_old_copy_is_refused_and_a_restore_is_seen(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path
) -> None:
    # Given a backup, and a copy of all of the host's files, from before a vTPM was destroyed
    Guest(manager, "web").write()
    backup, kept = tmp_path / "backup", tmp_path / "kept"
    done(manager.paths.root, "backup", str(backup))
    manager.stop()
    for name in ("manager", "vtpm"):
        shutil.copytree(manager.paths.root / name, kept / name)
    manager.start()
    manager.attend()
    destroyed = tandem(manager.paths.root, "vtpm", "destroy", "web", "--key", str(key))
    assert destroyed.returncode == 0, destroyed.stderr
    manager.stop()
    # When the files are put back to have it again
    for name in ("manager", "vtpm"):
        shutil.rmtree(manager.paths.root / name)
        shutil.copytree(kept / name, manager.paths.root / name)
    give_back(manager.paths)
    # Then the host does not start on them
    with pytest.raises(Refused) as raised:
        manager.start()
    assert raised.value.code == "TDM-ROLLBACK-STORE"
    # And whoever brings it back by the recovery key does so in an epoch that every verifier sees
    arguments = ("restore", str(backup), "--approval-key", str(key))
    record = done(manager.paths.root, *arguments, typed=recovery_key)
    assert standings(record)["web"] == ("current", False)
    manager.start()
    assert epoch_of(manager.vtpm("another")) == record["epoch"] == 2


def test_each_restore_is_a_further_epoch(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path
) -> None:
    # Given a backup that was brought back once
    backup = tmp_path / "backup"
    done(manager.paths.root, "backup", str(backup))
    manager.stop()
    arguments = ("restore", str(backup), "--approval-key", str(key))
    first = done(manager.paths.root, *arguments, typed=recovery_key)
    # When it is brought back again
    second = done(manager.paths.root, *arguments, typed=recovery_key)
    # Then that is another epoch and generation, and the key that was shown last counts
    assert (first["epoch"], second["epoch"]) == (2, 3)
    assert (first["generation"], second["generation"]) == (2, 3)
    manager.start()
    assert read_identity(manager.paths.identity).epoch == 3


def test_a_tenants_group_comes_back_where_its_key_was_sealed(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path, work: Path
) -> None:
    # Given a tenant's group with a vTPM, on a host with a new master key since
    tenant, host = str(tmp_path / "red.key"), manager.paths.root
    for words in (
        ("group", "add", "red", "--key", str(key), "--group-key", tenant),
        ("group", "approve", "red", "--key", tenant),
    ):
        found = tandem(host, *words)
        assert found.returncode == 0, found.stderr
    guest = Guest(manager, "red-web", group="red")
    guest.write()
    recovery_key = str(done(host, "rotate", "--key", str(key))["recovery_key"])
    guest.write()
    backup = tmp_path / "backup"
    done(host, "backup", str(backup))
    manager.stop()
    # When its backup is brought back here, and on another machine
    arguments = ("restore", str(backup), "--approval-key", str(key))
    here = done(host, *arguments, typed=recovery_key)
    other = RunningManager(work / f"other-{tmp_path.name}")
    there = done(other.paths.root, *arguments, typed=recovery_key)
    # Then the tenant's vTPM goes on here, and stays closed there, where the host's own go on
    assert standings(here) == {"red-web": ("current", False)}
    manager.start()
    Guest(manager, "red-web", group="red").write()
    assert standings(there) == {"red-web": ("closed", True)}
    assert len(list((other.paths.vtpm / "red-web").iterdir())) == 2
    try:
        other.start()
        with pytest.raises(Refused) as raised:
            Guest(other, "red-web", group="red")
        assert raised.value.code == "TDM-GROUP-CLOSED"
        Guest(other, "web").write()
    finally:
        other.close()


def test_a_restore_after_all_was_lost_is_an_epoch_that_never_was(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path
) -> None:
    # Given a backup that was brought back, and then all files of the Manager lost, twice
    backup = tmp_path / "backup"
    done(manager.paths.root, "backup", str(backup))
    manager.stop()
    epochs, generations = [], []
    for _ in range(2):
        shutil.rmtree(manager.paths.manager)
        # When it is brought back
        arguments = ("restore", str(backup), "--approval-key", str(key))
        record = done(manager.paths.root, *arguments, typed=recovery_key)
        epochs.append(record["epoch"])
        generations.append(record["generation"])
        manager.start()
        manager.stop()
        time.sleep(1)
    # Then each time that is another epoch and generation of the same host
    assert record["same_ptpm"]
    assert 2 < epochs[0] < epochs[1]
    assert 2 < generations[0] < generations[1]


def test_a_backup_made_of_an_idle_host_is_as_good(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path
) -> None:
    # Given a host that does not run
    Guest(manager, "web").write()
    manager.stop()
    # When a backup is made and brought back
    backup = tmp_path / "backup"
    done(manager.paths.root, "backup", str(backup))
    record = done(
        manager.paths.root, "restore", str(backup), "--approval-key", str(key), typed=recovery_key
    )
    # Then it holds the same
    assert standings(record) == {"web": ("current", False)}
    manager.start()
    Guest(manager, "web").write()


def test_a_backup_is_consistent_while_vtpms_write(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path
) -> None:
    # Given vTPMs that write without a pause
    guests = [Guest(manager, f"web-{number}") for number in range(3)]
    ending = threading.Event()

    def keep_writing(guest: Guest) -> None:
        while not ending.is_set():
            guest.write()

    writers = [threading.Thread(target=keep_writing, args=(guest,)) for guest in guests]
    for writer in writers:
        writer.start()
    # When a backup is made meanwhile
    backup = tmp_path / "backup"
    try:
        time.sleep(0.2)
        made = done(manager.paths.root, "backup", str(backup))
        kept = [guest.slots.version for guest in guests]
        wait_until(
            lambda: all(
                guest.slots.version > version + 2  # both slots are newer than the backup
                for guest, version in zip(guests, kept, strict=True)
            )
        )
    finally:
        ending.set()
        for writer in writers:
            writer.join()
    manager.stop()
    arguments = ("restore", str(backup), "--approval-key", str(key))
    record = done(manager.paths.root, *arguments, typed=recovery_key)
    # Then it has, of each vTPM, the state that its store names
    assert made["without_newest_state"] == []
    assert set(standings(record).values()) == {("newer", True)}
    manager.start()
    for guest in guests:
        Guest(manager, guest.place.name).write()


def test_a_backup_tells_nothing_without_the_key(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path
) -> None:
    # Given a backup of a host with a vTPM
    Guest(manager, "very-telling-name").write()
    backup = tmp_path / "backup"
    done(manager.paths.root, "backup", str(backup))
    manager.stop()
    content = backup.read_bytes()
    # When it is looked at, or opened with another key
    # Then nothing is to be seen, and nobody but its owner may look
    assert backup.stat().st_mode & 0o777 == 0o600
    for telling in (b"very-telling-name", b"SQLite", b"TDMSTAT1", b"vtpm/"):
        assert telling not in content
    other = done(
        manager.paths.root, "restore", str(backup), "--approval-key", str(key), typed=recovery_key
    )["recovery_key"]
    found = run(manager.paths.root, "restore", str(backup), typed=other)
    assert refusal(found) == ("TDM-RECOVERY-KEY-WRONG", 5)


@pytest.mark.parametrize("what", ["cut", "changed", "longer", "empty"])
def test_a_damaged_backup_changes_nothing(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path, what: str
) -> None:
    # Given a backup that is not what was written
    Guest(manager, "web").write()
    backup = tmp_path / "backup"
    done(manager.paths.root, "backup", str(backup))
    manager.stop()
    content = bytearray(backup.read_bytes())
    content[-100] ^= 1
    changes = {
        "cut": backup.read_bytes()[:-1],
        "changed": bytes(content),
        "longer": backup.read_bytes() + b"\0",
        "empty": b"",
    }
    backup.write_bytes(changes[what])
    # When it is brought back
    new = tmp_path / "new.key"
    found = run(
        manager.paths.root, "restore", str(backup), "--approval-key", str(new), typed=recovery_key
    )
    # Then it is refused by name, no key is left for it, and the host is as it was
    assert refusal(found) == ("TDM-BACKUP-DAMAGED", 4)
    assert not new.exists()
    manager.start()
    assert Guest(manager, "web").vtpm.welcome.state_version == 1


def test_a_backup_is_not_brought_back_on_another_hosts_ptpm(
    manager: RunningManager, recovery_key: str, key: Path, tmp_path: Path, work: Path
) -> None:
    # Given a backup, and another host
    backup = tmp_path / "backup"
    done(manager.paths.root, "backup", str(backup))
    other = work / f"other-{tmp_path.name}"
    assert tandem(other, "host", "init", "--approval-key", str(key)).returncode == 0
    # When it is brought back there
    arguments = ("restore", str(backup), "--approval-key", str(key))
    found = run(other, *arguments, typed=recovery_key)
    # Then that host is not overwritten
    assert refusal(found) == ("TDM-PTPM-OF-ANOTHER-HOST", 5)
    there = RunningManager(other)
    there.start()
    there.close()


def give_back(paths: HostPaths) -> None:
    for path in (paths.manager, *paths.manager.rglob("*")):
        os.chown(path, UID_BASE, UID_BASE)
