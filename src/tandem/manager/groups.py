"""The groups of a host: found once, opened when they are needed, closed where the host may not.

A group's key opens its vTPMs' records and its CA key.  The host's own group has it in its record,
under the master key; a tenant's is sealed in the pTPM to the host states that the tenant approved.
A group that does not open stays closed, and all others go on.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from tandem.errors import HostError, Refused, TandemError
from tandem.evidence.host_approval import PublicKey, authorized_policy, parse_approval
from tandem.evidence.host_state import HostState
from tandem.evidence.tpm_types import parse_public
from tandem.manager import records
from tandem.manager.approvals import choose
from tandem.manager.ca import Authority, TpmSigningKey
from tandem.manager.identity import derive
from tandem.manager.issuing import IssuingKeys
from tandem.manager.ptpm import KeyBlob, Ptpm, public_area
from tandem.manager.store import Store
from tandem.values import Secret

KEY_SIZE: Final = 32
CA_AUTH: Final = "ptpm auth ca"
Clock = Callable[[], datetime.datetime]


@dataclass(frozen=True, kw_only=True)
class GroupTerms:
    """What a group is founded with."""

    name: str
    authority: PublicKey | None  # its administrator's; None: the host's own administrator
    signers: tuple[str, ...] = ()
    vtpms_most: int = records.VTPMS_MOST
    running_most: int = records.RUNNING_MOST
    commits_most: int = records.COMMITS_MOST


@dataclass(kw_only=True)
class OpenGroup:
    """A group whose key is in this process."""

    name: str
    key: Secret
    issuing: IssuingKeys


def group_subject(name: str) -> str:
    """Give what approvals call a group."""
    return f"group/{name}"


def found_group(ptpm: Ptpm, terms: GroupTerms, now: datetime.datetime) -> records.GroupRecord:
    """Make a group's keys; a tenant's is sealed, and only the tenant's approvals open it."""
    key = Secret(os.urandom(KEY_SIZE))
    ca = ptpm.create_ca_key(derive(key, CA_AUTH))
    with _authority(ptpm, terms.name, ca, key) as authority:
        certificate = authority.own_certificate(now)
    own = terms.authority is None
    sealed, authority_der = KeyBlob(public=b"", private=b""), b""
    if terms.authority is not None:
        policy = authorized_policy(terms.authority, group_subject(terms.name), 1)
        sealed = ptpm.seal(key, policy=policy)
        authority_der = terms.authority.public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    return records.GroupRecord(
        authority=authority_der,
        key=key.reveal() if own else b"",
        signers=terms.signers,
        ca_public=ca.public,
        ca_private=ca.private,
        ca_certificate=certificate,
        generation=1,
        sealed_public=sealed.public,
        sealed_private=sealed.private,
        approvals=(),
        vtpms_most=terms.vtpms_most,
        running_most=terms.running_most,
        commits_most=terms.commits_most,
        crl_number=0,
    )


def with_new_ca(
    ptpm: Ptpm, name: str, record: records.GroupRecord, now: datetime.datetime
) -> records.GroupRecord:
    """Give a group of the host's own another CA key: the pTPM that had the first is not here."""
    key = Secret(record.key)
    ca = ptpm.create_ca_key(derive(key, CA_AUTH))
    with _authority(ptpm, name, ca, key) as authority:
        certificate = authority.own_certificate(now)
    return replace(record, ca_public=ca.public, ca_private=ca.private, ca_certificate=certificate)


class Groups:
    """Every group of the host; changes are staged in the store."""

    def __init__(self, store: Store, ptpm: Ptpm, clock: Clock, approver: PublicKey) -> None:
        self._store = store
        self._approver = approver
        self._ptpm = ptpm
        self.clock = clock
        self._open: dict[str, OpenGroup] = {}
        self._read: dict[str, tuple[bytes, records.GroupRecord]] = {}  # the last ones

    def names(self) -> list[str]:
        """Give the names of all groups, in order."""
        return [name.removeprefix(records.GROUPS) for name in self._store.names(records.GROUPS)]

    def record(self, name: str) -> records.GroupRecord:
        """Give a group's record; one that there is not is refused."""
        content = self._store.get(records.group_id(name))
        if content is None:
            raise Refused(
                "TDM-GROUP-UNKNOWN",
                f"there is no group {name} on this host",
                hint=f"see `tandem group list`; the host's own is {records.DEFAULT_GROUP}",
            )
        known, record = self._read.get(name, (b"", None))
        if record is None or known != content:
            record = records.decode(records.GroupRecord, content)
            self._read[name] = content, record
        return record

    def keep(self, name: str, record: records.GroupRecord) -> None:
        """Stage a group's record."""
        self._store.stage(records.group_id(name), records.encode(record))

    def remove(self, name: str) -> None:
        """Stage the end of a group that has no vTPMs any more."""
        for tombstone in list(self._store.names(records.tombstone_prefix(name))):
            self._store.remove(tombstone)
        self._store.remove(records.group_id(name))
        self.close(name)

    def administrator(self, name: str) -> PublicKey:
        """Give the key of a group's administrator."""
        record = self.record(name)
        if not record.authority:
            return self._approver
        key = load_der_public_key(record.authority)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("checked when the group was founded")
        return key

    def close(self, name: str) -> None:
        """Forget a group's key; the next need opens it again."""
        self._open.pop(name, None)
        self._store.lock(name)

    def is_open(self, name: str) -> bool:
        """Whether the group's key is in this process."""
        return name in self._open

    def opened(self, name: str) -> OpenGroup:
        """Give a group, opened at need; one that this host may not open now is refused."""
        if name not in self._open:
            self._open[name] = self._opened(name, self.record(name))
        return self._open[name]

    def follow(self, generation: int) -> None:
        """Have the host's own groups follow it to a new master key, each under a new key itself.

        Whoever has the former master key finds their former keys in an old copy of the store.
        """
        for name in self.names():
            record = self.record(name)
            if record.key and record.generation != generation:
                self.keep(name, self.renew(name, generation))

    def renew(self, name: str, generation: int) -> records.GroupRecord:
        """Put an open group under a new key; a tenant's is sealed: no earlier approval opens it.

        Whoever has an old copy of the store, and boots a state that was approved for it, finds the
        former key there: it opens that copy, and nothing that is written from now on.  Where the
        next commit is not written, `close` the group.
        """
        record, former, key = self.record(name), self.opened(name).key, Secret(os.urandom(KEY_SIZE))
        blob = KeyBlob(public=b"", private=b"")
        if not record.key:
            policy = authorized_policy(self.administrator(name), group_subject(name), generation)
            blob = self._ptpm.seal(key, policy=policy)
        ca = self._ptpm.change_auth(_ca_blob(record), derive(former, CA_AUTH), derive(key, CA_AUTH))
        self._store.rekey(name, key)
        self.opened(name).key = key
        return replace(
            record,
            key=key.reveal() if record.key else b"",
            generation=generation,
            ca_public=ca.public,
            ca_private=ca.private,
            sealed_public=blob.public,
            sealed_private=blob.private,
            approvals=(),
        )

    @contextmanager
    def authority(self, name: str) -> Iterator[Authority]:
        """Load an open group's CA key into the pTPM for a while."""
        record = self.record(name)
        with _authority(self._ptpm, name, _ca_blob(record), self.opened(name).key) as authority:
            yield authority

    def renew_keys(self) -> list[TandemError]:
        """Replace the issuing keys that are due; gives why a group's could not be replaced.

        Those keep on signing until they are a day old.  Then they are forgotten, and the group is
        opened anew when it is needed.
        """
        failures: list[TandemError] = []
        now = self.clock()
        for group in list(self._open.values()):
            if not group.issuing.due(now):
                continue
            try:
                with self.authority(group.name) as authority:
                    group.issuing = IssuingKeys(authority, now)
            except (HostError, Refused) as error:  # Refused: the pTPM does not load the CA key
                failures.append(error)
                if not group.issuing.usable(now):
                    del self._open[group.name]
        return failures

    def _opened(self, name: str, record: records.GroupRecord) -> OpenGroup:
        try:
            key = Secret(record.key) if record.key else self._unsealed(name, record)
            self._store.unlock(name, key)
        except Refused as error:
            raise Refused(
                "TDM-GROUP-CLOSED",
                f"group {name} is closed: {error.problem}",
                hint="boot a host state that the group's administrator approved, or have this one "
                f"approved with `tandem group approve {name}`",
            ) from error
        with _authority(self._ptpm, name, _ca_blob(record), key) as authority:
            return OpenGroup(name=name, key=key, issuing=IssuingKeys(authority, self.clock()))

    def _unsealed(self, name: str, record: records.GroupRecord) -> Secret:
        approvals = [parse_approval(each) for each in record.approvals]
        registers = {index for each in approvals for index in each.state.registers}
        present = self._ptpm.read_state(registers) if registers else HostState(banks={})
        approval = choose(approvals, present, f"the key of group {name}")
        blob = KeyBlob(public=record.sealed_public, private=record.sealed_private)
        return self._ptpm.unseal(blob, approval, self.administrator(name))


def _ca_blob(record: records.GroupRecord) -> KeyBlob:
    return KeyBlob(public=record.ca_public, private=record.ca_private)


@contextmanager
def _authority(ptpm: Ptpm, name: str, ca: KeyBlob, key: Secret) -> Iterator[Authority]:
    public = parse_public(public_area(ca)).key
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TypeError("a CA key is made as ECDSA P-256")
    with ptpm.loaded_signer(ca, derive(key, CA_AUTH)) as sign:
        yield Authority(name, TpmSigningKey(public, sign))
