"""A host directory that somebody or something changed: each part is refused by its own name."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.errors import HostError, TandemError
from tandem.settings import UID_BASE, HostPaths
from tests.integration.manager.running_manager import RunningManager

Damage = Callable[[HostPaths], None]


def overwrite(name: str, content: bytes) -> Damage:
    def act(paths: HostPaths) -> None:
        (paths.manager / name).write_bytes(content)

    return act


def cut(name: str) -> Damage:
    def act(paths: HostPaths) -> None:
        path = paths.manager / name
        os.truncate(path, path.stat().st_size // 2)

    return act


def in_store(statement: str) -> Damage:
    def act(paths: HostPaths) -> None:
        connection = sqlite3.connect(paths.manager / "store.sqlite")
        with connection:
            connection.execute(statement)
        connection.close()
        for path in paths.manager.glob("store.sqlite*"):
            os.chown(path, UID_BASE, UID_BASE)

    return act


def closed_to_its_user(paths: HostPaths) -> None:
    store = paths.manager / "store.sqlite"
    os.chown(store, 0, 0)
    store.chmod(0o600)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "identity of noise": (overwrite("identity.cbor", b"noise"), "TDM-HOST-IDENTITY-DAMAGED"),
    "identity cut short": (cut("identity.cbor"), "TDM-HOST-IDENTITY-DAMAGED"),
    "store of noise": (overwrite("store.sqlite", b"noise" * 999), "TDM-STORE-DAMAGED"),
    "store cut short": (cut("store.sqlite"), "TDM-STORE-DAMAGED"),
    "empty store": (overwrite("store.sqlite", b""), "TDM-STORE-DAMAGED"),
    "record taken away": (in_store("DELETE FROM record WHERE id = 'host'"), "TDM-STORE-DAMAGED"),
    "record's version moved": (in_store("UPDATE record SET version = 9"), "TDM-STORE-DAMAGED"),
    "store of another user": (closed_to_its_user, "TDM-STORE-NOT-OPENED"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_host_does_not_start_and_says_what_is_damaged(
    stopped: RunningManager, what: str
) -> None:
    # Given a host that was made, and a part of it damaged
    damage, code = DAMAGES[what]
    damage(stopped.paths)
    # When it is started
    with pytest.raises(HostError) as raised:
        stopped.start()
    # Then the error names the part, and no process is left
    assert raised.value.code == code
    assert str(stopped.paths.manager) in raised.value.problem
    assert stopped.service.running() is None


def test_a_damaged_host_starts_again_when_the_part_is_put_back(stopped: RunningManager) -> None:
    # Given a host whose store was damaged, and refused for it
    store = stopped.paths.manager / "store.sqlite"
    kept = shutil.copy2(store, stopped.paths.root / "kept")
    store.write_bytes(b"noise")
    with pytest.raises(TandemError):
        stopped.start()
    # When the newest store is put back
    store.write_bytes(Path(kept).read_bytes())
    stopped.start()
    # Then the host is what it was: the refused start did not move the pTPM's anchor
    assert stopped.status().store_commits == 0


def test_a_link_in_the_managers_directory_does_not_lead_root_anywhere(
    stopped: RunningManager,
) -> None:
    # Given links that the Manager's user could make, to a file of root's
    precious = stopped.paths.root / "precious"
    precious.write_bytes(b"precious")
    for directory in (stopped.paths.ptpm, stopped.paths.manager):
        for name in ("swtpm.log", "manager.sock", "store.sqlite-wal"):
            (directory / name).symlink_to(precious)
    # When the Manager starts, serves and is stopped
    with pytest.raises(HostError):  # the link in place of the WAL is not followed either
        stopped.start()
    (stopped.paths.manager / "store.sqlite-wal").unlink(missing_ok=True)
    stopped.start()
    stopped.vtpm("web").prepare()
    stopped.stop()
    # Then the file is what it was
    assert precious.read_bytes() == b"precious"


def test_programs_that_the_manager_starts_gain_nothing(manager: RunningManager) -> None:
    # Given a Manager and its pTPM
    for pid in (manager.pid, manager.swtpm()):
        # When the kernel is asked
        status = Path(f"/proc/{pid}/status").read_text()
        # Then neither could become root through a set-uid program
        assert "NoNewPrivs:\t1" in status
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert f"{kind}:\t{0:016x}" in status


def test_nothing_listens_on_a_network(manager: RunningManager) -> None:
    # Given the inodes of all sockets of both processes
    inodes = {
        os.readlink(link)
        for pid in (manager.pid, manager.swtpm())
        for link in Path(f"/proc/{pid}/fd").iterdir()
    }
    # When the kernel's tables of network sockets are read
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6", "udp", "udp6")]
    lines = [line.split() for table in tables if table.exists()
             for line in table.read_text().splitlines()[1:]]  # fmt: skip
    # Then none is theirs
    assert not inodes & {f"socket:[{line[9]}]" for line in lines}
