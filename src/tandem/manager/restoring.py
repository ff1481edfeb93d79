"""A backup brought back: a new generation, and a new epoch that every verifier sees.

The pTPM cannot say any more that this store is the newest, so that is never done silently: whoever
has the recovery key does it, and what was written since the backup is lost.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from tandem.errors import HostError, Refused, TandemError
from tandem.evidence.host_approval import PrivateKey, PublicKey
from tandem.evidence.host_state import refuse_blank
from tandem.manager import records
from tandem.manager.generations import HostKeys, Terms, new_master_key
from tandem.manager.groups import Groups, with_new_ca
from tandem.manager.host import endorsement, open_master
from tandem.manager.identity import Identity, derived_auths, read_identity, sync_directory
from tandem.manager.offline import Answer
from tandem.manager.ptpm import Ptpm, another_host
from tandem.manager.recovery import shown
from tandem.manager.rotation import BROUGHT, SLOTS, establish, remove_store, tidy
from tandem.manager.store import Store
from tandem.manager.tcti import PtpmFailed
from tandem.settings import HostPaths
from tandem.values import Secret


class Standing(StrEnum):
    """What the state of a vTPM on disk is, measured at the backup."""

    CURRENT = "current"
    OLDER = "older"
    NEWER = "newer"
    MISSING = "missing"
    DAMAGED = "damaged"
    NONE = "none"  # it had no state yet
    CLOSED = "closed"  # its group is, so nobody can tell
    UNKNOWN = "unknown"  # the backup does not have this vTPM


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A state as it is on disk, or in a backup."""

    version: int | None  # as it claims; None where it is no state
    digest: bytes  # SHA-256


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What is brought back, and where to."""

    identity: Identity  # the backup's
    master: Secret  # the backup's
    store: bytes  # the database's bytes
    device: str  # as the identity names the pTPM that it goes to
    on_disk: Mapping[str, Sequence[Slot]]  # by vTPM


def standing_of(record: records.VtpmRecord, slots: Sequence[Slot]) -> Standing:
    """Say what a vTPM's slots on disk are, against the record of the backup."""
    due = record.state_version
    versions = [slot.version for slot in slots if slot.version is not None]
    if due and any(slot.digest == record.state_digest for slot in slots):
        return Standing.CURRENT
    if any(version > due for version in versions):
        return Standing.NEWER
    if not due:
        return Standing.NONE
    if not slots:
        return Standing.MISSING
    is_older = len(versions) == len(slots) and all(version < due for version in versions)
    return Standing.OLDER if is_older else Standing.DAMAGED


def restore(
    paths: HostPaths, ptpm: Ptpm, brought: Brought, approval_key: PrivateKey | PublicKey
) -> Answer:
    """Bring a backup back as the host's next generation, in a new epoch."""
    present = ptpm.read_state(brought.identity.registers)
    refuse_blank(present)
    now = datetime.datetime.now(datetime.UTC)
    is_known = _is_known(ptpm, brought.identity)
    terms = _terms(paths, ptpm, brought, approval_key, now, is_known=is_known)
    ptpm.empty_slot(terms.slot)
    fresh = new_master_key()
    keys = _keys(ptpm, brought, derived_auths(fresh)["ak"], is_known=is_known)
    remove_store(paths, BROUGHT)
    (paths.manager / BROUGHT).write_bytes(brought.store)
    try:
        made = establish(
            paths, ptpm, terms, keys, fresh, terms.approvals(present),
            lambda: _adopted(paths, ptpm, brought, terms, now, is_known=is_known),
        )  # fmt: skip
    except BaseException:
        if not is_known:  # a pTPM that was nobody's stays so
            ptpm.remove_host()
        raise
    finally:
        remove_store(paths, BROUGHT)
    sync_directory(paths.manager)
    with suppress(PtpmFailed, OSError):  # the next start does it: the new generation stands
        tidy(paths, ptpm, made.identity)
    report = _report(made.store, ptpm, made.identity, brought.on_disk)
    made.store.close()
    return {
        "generation": made.identity.generation,
        "epoch": made.identity.epoch,
        "same_ptpm": is_known,
        "recovery_key": shown(made.recovery_key),
        "vtpms": report,
    }


def _terms(
    paths: HostPaths,
    ptpm: Ptpm,
    brought: Brought,
    approval_key: PrivateKey | PublicKey,
    now: datetime.datetime,
    *,
    is_known: bool,
) -> Terms:
    """Go on after the newest generation and epoch that are known: the lost or the backup's.

    Where the lost ones are not proven, the clock says what is surely after them: else an approval
    from then would count again, and a second restore would pass for the first.
    """
    try:
        lost: Identity | None = read_identity(paths.identity)
    except HostError:  # there is none, or it is part of what is to be repaired
        lost = None
    is_newest = lost is not None and _is_newest(paths, ptpm, brought, lost)
    known = [brought.identity, lost] if lost is not None and is_newest else [brought.identity]
    surely_later = 0 if is_newest else int(now.timestamp())
    return Terms(
        number=max(surely_later, *(each.generation + 1 for each in known)),
        slot=ptpm.free_slot() if lost is None else (lost.slot + 1) % SLOTS,
        epoch=max(surely_later if is_known else 0, *(each.epoch + 1 for each in known)),
        device=brought.device,
        registers=brought.identity.registers,
        approval_key=approval_key,
    )


def _is_newest(paths: HostPaths, ptpm: Ptpm, brought: Brought, lost: Identity) -> bool:
    """Whether an identity on disk is that of the generation that the pTPM anchors.

    Anybody may have put an earlier one there.  Its master key tells: it is the backup's, too, or
    the pTPM unseals it in an approved state.
    """
    try:
        known = brought.master if lost == brought.identity else open_master(paths, lost, ptpm)
        ptpm.use_keys(lost.slot, lost.ak, derived_auths(known))
        ptpm.read_chain()
    except (HostError, Refused):
        return False
    return True


def _is_known(ptpm: Ptpm, identity: Identity) -> bool:
    """Whether the pTPM is the one that the backup's host had; one of another host is refused."""
    if not ptpm.holds_a_host():
        return False
    try:
        ptpm.open_root(identity.root_name)
    except Refused as error:
        raise another_host() from error
    return True


def _keys(ptpm: Ptpm, brought: Brought, auth: Secret, *, is_known: bool) -> HostKeys:
    """Give the same AK under its new authValue, or another in another pTPM."""
    if not is_known:
        root_name = ptpm.make_root()
        return HostKeys(root_name=root_name, ak=ptpm.create_ak(auth))
    old = derived_auths(brought.master)["ak"]
    ak = ptpm.change_auth(brought.identity.ak, old, auth)
    return HostKeys(root_name=brought.identity.root_name, ak=ak)


def _adopted(
    paths: HostPaths,
    ptpm: Ptpm,
    brought: Brought,
    terms: Terms,
    now: datetime.datetime,
    *,
    is_known: bool,
) -> Store:
    """Open the backup's store, and write the new epoch into it."""
    store = Store.adopt(paths.manager / BROUGHT, brought.master, ptpm)
    content = store.get(records.HOST)
    if content is None:
        raise HostError(
            "TDM-STORE-INCOMPLETE",
            f"the backup's store has no record {records.HOST}",
            hint="take an earlier backup",
        )
    record = replace(records.decode(records.HostRecord, content), epoch=terms.epoch)
    if not is_known:
        new = endorsement(ptpm)
        record = replace(
            new,
            epoch=terms.epoch,
            rollback_window=record.rollback_window,
            wear_budget=record.wear_budget,
        )
        _renew_authorities(store, ptpm, now)
    store.stage(records.HOST, records.encode(record))
    store.commit()
    return store


def _renew_authorities(store: Store, ptpm: Ptpm, now: datetime.datetime) -> None:
    """Make CA keys in the new pTPM for the host's own groups; tenants' keys stayed in the old."""
    for name in store.names(records.GROUPS):
        group = records.decode(records.GroupRecord, store.get(name) or b"")
        if group.key:
            renewed = with_new_ca(ptpm, name.removeprefix(records.GROUPS), group, now)
            store.stage(name, records.encode(renewed))


def _report(
    store: Store, ptpm: Ptpm, identity: Identity, on_disk: Mapping[str, Sequence[Slot]]
) -> dict[str, dict[str, object]]:
    """Say of each vTPM, in the backup or on disk, what its state is and which one it needs."""
    groups = Groups(store, ptpm, lambda: datetime.datetime.now(datetime.UTC), identity.approver)
    report: dict[str, dict[str, object]] = {}
    for name in store.names(records.VTPMS):
        _, group, vtpm = name.split("/")
        report[vtpm] = _line(groups, store, name, group, on_disk.get(vtpm, ()))
    for vtpm in sorted(on_disk.keys() - report.keys()):
        report[vtpm] = {"group": "", "standing": str(Standing.UNKNOWN), "needs": b"", "version": 0}
    return report


def _line(
    groups: Groups, store: Store, name: str, group: str, slots: Sequence[Slot]
) -> dict[str, object]:
    try:
        groups.opened(group)
    except TandemError:  # a tenant's approvals are of other states, or of another pTPM
        closed = str(Standing.CLOSED)
        return {"group": group, "standing": closed, "needs": b"", "version": 0}
    record = records.decode(records.VtpmRecord, store.get(name) or b"")
    return {
        "group": group,
        "standing": str(standing_of(record, slots)),
        "needs": record.state_digest,
        "version": record.state_version,
    }
