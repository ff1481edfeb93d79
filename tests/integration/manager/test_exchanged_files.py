"""Old files of a host put back between two starts, by whoever kept copies of them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import TandemError
from tandem.manager import records
from tandem.manager.changes import recovered_master
from tandem.manager.identity import read_identity, write_identity
from tandem.manager.recovery import read
from tandem.manager.store import Store
from tandem.settings import UID_BASE
from tandem.values import Secret
from tests.integration.manager.host_runs import done, refused, run
from tests.integration.manager.running_manager import RunningManager
from tests.unit.manager.software_host import MemoryAnchor


def put_back(manager: RunningManager, kept: Path) -> None:
    """Exchange the Manager's files for a copy of them."""
    shutil.rmtree(manager.paths.manager)
    shutil.copytree(kept, manager.paths.manager)
    for path in (manager.paths.manager, *manager.paths.manager.rglob("*")):
        os.chown(path, UID_BASE, UID_BASE)


def opened_copy(files: Path, recovery_key: str) -> Store:
    """Open a copy of a host's files with nothing but the recovery key of its time."""
    identity = read_identity(files / "identity.cbor")
    master = recovered_master(identity, read(recovery_key))
    return Store.adopt(files / identity.store, master, MemoryAnchor())


def test_files_of_the_generation_before_the_last_are_refused_by_name(
    manager: RunningManager, key: Path, tmp_path: Path
) -> None:
    # Given a copy of a host's files, and two new master keys since: the same slot of the pTPM
    kept = shutil.copytree(manager.paths.manager, tmp_path / "kept")
    for _ in range(2):
        done(manager, "rotate", "--key", str(key))
    manager.stop()
    newest = shutil.copytree(manager.paths.manager, tmp_path / "newest")
    # When the copy is put back
    put_back(manager, kept)
    # Then the host does not start on it, says why, and starts on the newest ones
    assert refused(manager.start) == "TDM-ROLLBACK-GENERATION"
    put_back(manager, newest)
    manager.start()


def test_an_exchanged_identity_does_not_make_an_epoch_happen_twice(
    manager: RunningManager, key: Path, recovery_key: str, tmp_path: Path
) -> None:
    # Given a backup that was brought back once, and a copy of the identity from before that
    backup, kept = tmp_path / "backup", tmp_path / "kept"
    shutil.copyfile(manager.paths.identity, kept)
    done(manager, "backup", str(backup))
    manager.stop()
    restoring = ("restore", str(backup), "--approval-key", str(key))
    first = done(manager, *restoring, typed=recovery_key)
    # When that identity is put in the place of the present one, and the backup is brought back
    shutil.copyfile(kept, manager.paths.identity)
    second = done(manager, *restoring, typed=recovery_key)
    # Then it is another epoch and generation than the first time
    assert second["epoch"] > first["epoch"]
    assert second["generation"] > first["generation"]


@pytest.mark.parametrize("renewal", ["rotate", "recover", "restore"])
def test_what_opened_a_former_generation_does_not_read_what_is_written_since(
    manager: RunningManager, key: Path, recovery_key: str, tmp_path: Path, renewal: str
) -> None:
    # Given a thief with the former recovery key and a copy of the files of its time
    manager.vtpm("web")
    kept = shutil.copytree(manager.paths.manager, tmp_path / "kept")
    if renewal == "rotate":
        renewed = done(manager, "rotate", "--key", str(key))
    else:
        backup = str(tmp_path / "backup")
        done(manager, "backup", backup)
        manager.stop()
        words = ("recover",) if renewal == "recover" else ("restore", backup)
        renewed = done(manager, *words, "--approval-key", str(key), typed=recovery_key)
        manager.start()
    vtpm = manager.vtpm("other")
    vtpm.prepare()
    vtpm.commit(1)
    manager.stop()
    former = opened_copy(kept, recovery_key)
    content = former.get(records.group_id(records.DEFAULT_GROUP))
    stolen = Secret(records.decode(records.GroupRecord, content or b"").key)
    former.close()
    # When he comes by the newest files, too
    newest = shutil.copytree(manager.paths.manager, tmp_path / "newest")
    present = opened_copy(newest, renewed["recovery_key"])
    # Then the group's key of then opens none of its records
    with pytest.raises(TandemError):
        present.unlock(records.DEFAULT_GROUP, stolen)
    present.close()
    # And the host goes on with all of its vTPMs
    manager.start()
    assert manager.vtpm("web").opened.launch_number == 2
    assert manager.vtpm("other").welcome.state_version == 1


@pytest.mark.parametrize("blob", ["sealed_public", "sealed_private", "ak_public", "ak_private"])
@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff" * 500, bytes(500)])
def test_an_identity_with_a_blob_that_is_none_is_refused_by_name(
    stopped: RunningManager, key: Path, recovery_key: str, blob: str, content: bytes
) -> None:
    # Given an identity in which somebody exchanged a blob
    change: dict[str, Any] = {blob: content}
    identity = read_identity(stopped.paths.identity)
    write_identity(stopped.paths.identity, replace(identity, **change))
    # When the host is started, and recovered
    code = refused(stopped.start)
    found = run(stopped, "recover", "--json", "--approval-key", str(key), typed=recovery_key)
    # Then both are refused by name
    assert code in {"TDM-PTPM-FOREIGN-KEYS", "TDM-HOST-IDENTITY-EXCHANGED"}
    assert json.loads(found.stderr)["code"] == "TDM-HOST-IDENTITY-EXCHANGED"
