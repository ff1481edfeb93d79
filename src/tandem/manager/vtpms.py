"""The persistent vTPMs of a host: which group has which, their records, and their end.

A vTPM's name is unique on the host, whatever its group.  Names and groups are readable always;
what a record says, only while its group is open.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Final

from tandem.errors import Refused
from tandem.evidence.signers import Signers
from tandem.manager import records
from tandem.manager.store import Store
from tandem.values import PAIR_ID_SIZE

KEY_SIZE: Final = 32


class Vtpms:
    """Every persistent vTPM, by name; changes are staged in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._groups: dict[str, str] = {}
        self.look()

    def look(self) -> None:
        """See again what the store has, where a commit was not written."""
        self._groups.clear()
        for name in self._store.names(records.VTPMS):
            _, group, vtpm = name.split("/")
            self._groups[vtpm] = group

    def group_of(self, vtpm: str) -> str | None:
        """Give the group that a vTPM belongs to; None where there is no such vTPM."""
        group = self._groups.get(vtpm)
        if group is not None and not self._store.has(records.vtpm_id(group, vtpm)):
            del self._groups[vtpm]  # its first commit was not written
            return None
        return group

    def of(self, group: str) -> Sequence[str]:
        """Give the names of a group's vTPMs, in order."""
        return sorted(vtpm for vtpm, owner in self._groups.items() if owner == group)

    def count(self, group: str) -> int:
        """Give how many vTPMs a group has."""
        return sum(owner == group for owner in self._groups.values())

    def get(self, vtpm: str) -> tuple[str, records.VtpmRecord]:
        """Give the group and the record of a vTPM; one that there is not is refused."""
        group = self.group_of(vtpm)
        content = None if group is None else self._store.get(records.vtpm_id(group, vtpm))
        if group is None or content is None:
            raise Refused(
                "TDM-VTPM-UNKNOWN",
                f"there is no persistent vTPM {vtpm} on this host",
                hint="see `tandem vtpm list`; a guest's first start makes its vTPM",
            )
        return group, records.decode(records.VtpmRecord, content)

    def keep(self, vtpm: str, record: records.VtpmRecord) -> None:
        """Stage a vTPM's record."""
        self._store.stage(records.vtpm_id(record.group, vtpm), records.encode(record))
        self._groups[vtpm] = record.group

    def destroy(self, vtpm: str, now: datetime.datetime) -> None:
        """Stage the end of a vTPM: its key is gone, its certificates are revoked."""
        group, record = self.get(vtpm)
        self._bury(vtpm, record, b"", now)
        self._store.remove(records.vtpm_id(group, vtpm))
        del self._groups[vtpm]

    def make_anew(self, vtpm: str, now: datetime.datetime) -> None:
        """Stage a new vTPM under the name of one whose state is lost; the old one is revoked."""
        _, record = self.get(vtpm)
        signers = Signers(key_ids=record.signers, threshold=record.threshold)
        successor = new_vtpm(guest=record.guest, group=record.group, signers=signers)
        self._bury(vtpm, record, successor.vtpm_id, now)
        self.keep(vtpm, successor)

    def drop(self, group: str) -> None:
        """Stage the end of all vTPMs of a group that is removed, whether it is open or not."""
        for vtpm in self.of(group):
            self._store.remove(records.vtpm_id(group, vtpm))
            del self._groups[vtpm]

    def _bury(
        self, vtpm: str, record: records.VtpmRecord, successor: bytes, now: datetime.datetime
    ) -> None:
        tombstone = records.TombstoneRecord(
            vtpm=vtpm,
            successor=successor,
            at=int(now.timestamp()),
            ek_serials=record.ek_serials,
            ak_serials=record.ak_serials,
        )
        name = records.tombstone_id(record.group, record.vtpm_id)
        self._store.stage(name, records.encode(tombstone))


def new_vtpm(*, guest: str, group: str, signers: Signers) -> records.VtpmRecord:
    """Give the record of a vTPM that was never launched."""
    return records.VtpmRecord(
        vtpm_id=os.urandom(PAIR_ID_SIZE),
        guest=guest,
        group=group,
        key=os.urandom(KEY_SIZE),
        state_key=b"",
        launch_key=os.urandom(KEY_SIZE),
        ek_name=b"",
        ek_serials=(),
        ak_serials={},
        signers=signers.key_ids,
        threshold=signers.threshold,
        launches=0,
        state_version=0,
        state_digest=b"",
    )


def revoked_serials(store: Store, group: str, now: datetime.datetime) -> dict[bytes, int]:
    """Give what a group revoked, with the time of each; what has ended is not listed any more."""
    revoked: dict[bytes, int] = {}
    for name in store.names(records.tombstone_prefix(group)):
        content = store.get(name)
        if content is None:
            continue
        tombstone = records.decode(records.TombstoneRecord, content)
        current = [serial for serial, end in tombstone.ak_serials.items() if end > now.timestamp()]
        revoked.update(dict.fromkeys((*tombstone.ek_serials, *current), tombstone.at))
    return revoked
