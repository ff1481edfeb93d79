"""`tandem host backup|restore`: one sealed file with all that a host has, and its way back."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from tandem.cli.approval_keys import add_approval_key, approval_key
from tandem.cli.host_directories import (
    EMBEDDED,
    device_name,
    made_directories,
    require_reachable,
)
from tandem.cli.host_secrets import WHY_ROOT, Action
from tandem.cli.manager_client import ManagerClient
from tandem.cli.output import PRIVATE, create_file, show_done
from tandem.cli.recovery_keys import ask_recovery_key, recovery_text
from tandem.cli.vtpm_states import (
    SlotState,
    States,
    has_state,
    newest_two,
    put_back,
    read_slots,
    vtpm_names,
)
from tandem.errors import HostError
from tandem.evidence.host_approval import PrivateKey, PublicKey
from tandem.files import open_at_once
from tandem.privileges import require_root
from tandem.settings import UID_BASE, HostPaths
from tandem.values import SHA256_SIZE, Secret

if TYPE_CHECKING:
    from tandem.manager.backup import BackupReader, BackupWriter

TRIES: Final = 5  # to find all vTPMs still while the store is copied
CLOSED: Final = "closed"
NEEDING: Final = ("older", "newer", "missing", "damaged")
SAID: Final = {
    "current": "its state on disk is the backup's",
    "older": "its state on disk is older than the backup",
    "newer": "its state on disk is newer than the backup",
    "missing": "its state on disk is missing",
    "damaged": "its state on disk is damaged",
    "none": "it had no state yet",
    CLOSED: "its group is closed here, so nobody can tell what its state is",
    "unknown": "it is not in the backup: its key is lost",
}


def add_actions(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], action: Action
) -> None:
    """Declare the commands."""
    backup = actions.add_parser("backup", help="write all of the host into one sealed file")
    backup.add_argument("file", metavar="FILE", help="it must not be there yet")
    action(backup, run_backup)
    restore = actions.add_parser("restore", help="bring a backup back, as a new epoch")
    restore.add_argument("file", metavar="FILE", help="the backup")
    restore.add_argument("--ptpm", metavar="DEVICE", help="default: as the backup names it")
    add_approval_key(restore)
    action(restore, run_restore)


def run_backup(args: argparse.Namespace) -> int:
    """Write a backup, consistent while the host runs."""
    require_root("`tandem host backup`", WHY_ROOT)
    paths = HostPaths(args.host.resolve())
    create_file(args.file, b"", "the backup", PRIVATE)
    try:
        with open(args.file, "r+b") as file:
            torn = _write_backup(paths, file)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
    except BaseException:  # an interrupt, too
        Path(args.file).unlink(missing_ok=True)
        raise
    record = {"backup": args.file, "bytes": size, "without_newest_state": sorted(torn)}
    text = f"backup of {size} bytes in {args.file}; the recovery key opens it"
    if torn:
        text += f"\nthe newest state of {', '.join(sorted(torn))} may lack: it was being written"
    show_done(args, record, text)
    return 0


def run_restore(args: argparse.Namespace) -> int:
    """Bring a backup back: an explicit act with the recovery key."""
    from tandem.manager.changes import recovered_master

    require_root("`tandem host restore`", WHY_ROOT)
    paths = HostPaths(args.host.resolve())
    with open(args.file, "rb", opener=open_at_once) as file:
        reader = _reader(file)
        master = recovered_master(reader.identity, ask_recovery_key())
        with ExitStack() as undo:
            if not paths.manager.exists():
                undo.enter_context(made_directories(paths))
            require_reachable(paths)
            approver = undo.enter_context(approval_key(args.approval_key, paths.root))
            done = _restored(paths, args, reader, master, approver.key)
        vtpms: Mapping[str, dict[str, Any]] = done["vtpms"]
        replaced = _put_states_back(paths, file, master, vtpms)
    record = {
        **{name: done[name] for name in ("generation", "epoch", "same_ptpm", "recovery_key")},
        "approval_key": str(approver.path),
        "vtpms": {
            vtpm: {
                "group": line["group"],
                "standing": line["standing"],
                "state_version": line["version"],
                "put_back": vtpm in replaced,
            }
            for vtpm, line in vtpms.items()
        },
    }
    lines = [
        f"restored: epoch {done['epoch']}, which every verifier sees; generation "
        f"{done['generation']}",
        *_about_ptpm(done),
        approver.advice,
        recovery_text(str(done["recovery_key"])),
        *(_about(vtpm, line, put_back=vtpm in replaced) for vtpm, line in vtpms.items()),
    ]
    show_done(args, record, "\n".join(lines))
    return 0


def _write_backup(paths: HostPaths, file: BinaryIO) -> set[str]:
    """Write all of a host; gives the vTPMs whose newest state may be missed."""
    from tandem.manager.backup import FORMAT, STORE, BackupWriter, Header
    from tandem.manager.changes import store_snapshot
    from tandem.manager.identity import encode_identity, read_identity
    from tandem.manager.offline import as_manager

    salt = os.urandom(SHA256_SIZE)
    identity = encode_identity(read_identity(paths.identity))
    with _backup_key(paths, salt) as key:
        header = Header(format=FORMAT, salt=salt, created=int(time.time()), identity=identity)
        writer = BackupWriter(file, header, key)
        states, number, store = States(paths.vtpm), 0, b""
        for _ in range(TRIES):
            number = _add_states(writer, states, number)
            store = bytes(as_manager(lambda: store_snapshot(paths))["store"])
            number = _add_states(writer, states, number)
            if not states.torn:
                break
        writer.add(STORE, store)
        writer.finish()
        if encode_identity(read_identity(paths.identity)) != identity:
            raise HostError(
                "TDM-BACKUP-HOST-CHANGED",
                "the host got a new master key while the backup was written",
                hint="give the command again",
            )
    return states.torn


@contextmanager
def _backup_key(paths: HostPaths, salt: bytes) -> Iterator[Secret]:
    """Have the Manager derive the key, or do it in its place, which it then cannot take."""
    from tandem.manager.changes import backup_key
    from tandem.manager.identity import read_identity
    from tandem.manager.offline import as_manager, in_place_of_manager

    identity = read_identity(paths.identity)
    try:
        with ManagerClient(paths.root) as manager:
            key = manager.backup_key(salt)
    except HostError as error:
        if error.code != "TDM-MANAGER-ABSENT":
            raise
        with in_place_of_manager(paths, identity.ptpm) as opened:
            done = as_manager(lambda: backup_key(paths, opened.ptpm, salt))
            yield Secret(bytes(done["key"]))
        return
    yield key


def _add_states(writer: BackupWriter, states: States, number: int) -> int:
    """Add what is new of the vTPMs' states; gives the next member's number."""
    from tandem.manager.backup import STATE

    for vtpm, slot in states.take_new():
        writer.add(f"{STATE}{vtpm}/{number}", slot.content)
        number += 1
    return number


def _restored(
    paths: HostPaths,
    args: argparse.Namespace,
    reader: BackupReader,
    master: Secret,
    key: PrivateKey | PublicKey,
) -> dict[str, Any]:
    """Make the next generation from the backup's store."""
    from tandem.manager import embedded
    from tandem.manager.backup import STORE
    from tandem.manager.offline import as_manager, in_place_of_manager
    from tandem.manager.restoring import Brought, Slot, restore

    stores = [content for name, content in reader.members(master) if name == STORE]  # to its end
    device = device_name(args.ptpm) if args.ptpm else reader.identity.ptpm
    if device == EMBEDDED and not paths.ptpm.exists():
        embedded.manufacture(paths.ptpm, UID_BASE)
    brought = Brought(
        identity=reader.identity,
        master=master,
        store=b"".join(stores),
        device=device,
        on_disk={
            vtpm: [
                Slot(version=slot.version, digest=slot.digest)
                for slot in read_slots(paths.vtpm, vtpm)
            ]
            for vtpm in vtpm_names(paths.vtpm)
        },
    )
    paths.approvals.mkdir(mode=0o700, exist_ok=True)
    for path in (paths.manager, paths.approvals):
        os.chown(path, UID_BASE, UID_BASE, follow_symlinks=False)
    with in_place_of_manager(paths, device) as opened:
        return as_manager(lambda: restore(paths, opened.ptpm, brought, key))


def _put_states_back(
    paths: HostPaths, file: BinaryIO, master: Secret, vtpms: Mapping[str, dict[str, Any]]
) -> set[str]:
    """Write the states that the store names, where the disk does not have them.

    Which one a closed group's vTPM needs is not known: where it has none, it gets the newest two.
    """
    from tandem.manager.backup import STATE, STORE

    replaced = set()
    unknown: dict[str, list[SlotState]] = {
        vtpm: []
        for vtpm, line in vtpms.items()
        if line["standing"] == CLOSED and not has_state(paths.vtpm, vtpm)
    }
    file.seek(0)
    for name, content in _reader(file).members(master):
        if name == STORE:
            continue
        vtpm = name.removeprefix(STATE).rpartition("/")[0]
        line = vtpms.get(vtpm, {})
        wanted = line.get("standing") in NEEDING and vtpm not in replaced
        if wanted and hashlib.sha256(content).digest() == line["needs"]:
            put_back(paths.vtpm, vtpm, [content])
            replaced.add(vtpm)
        if vtpm in unknown:
            unknown[vtpm] = newest_two([*unknown[vtpm], SlotState(content=content)])
    for vtpm, slots in unknown.items():
        if slots:
            put_back(paths.vtpm, vtpm, [slot.content for slot in slots])
            replaced.add(vtpm)
    return replaced


def _reader(file: BinaryIO) -> BackupReader:
    from tandem.manager.backup import BackupReader

    return BackupReader(file)


def _about_ptpm(done: Mapping[str, Any]) -> list[str]:
    if done["same_ptpm"]:
        return []
    return [
        "another pTPM: the host has a new AK, and its own groups new CAs; enrol it again with "
        "each verifier",
        "tenants' groups were sealed in the former pTPM and stay closed: their administrators "
        "found them anew",
    ]


def _about(vtpm: str, line: Mapping[str, Any], *, put_back: bool) -> str:
    text = f"  {vtpm}: {SAID[line['standing']]}"
    if put_back and line["standing"] == CLOSED:
        return f"{text}; the backup's newest put back, for it had none"
    if put_back:
        return f"{text}; version {line['version']} put back"
    if line["standing"] in NEEDING:
        return f"{text}; the backup lacks version {line['version']}, so it does not start"
    return text
