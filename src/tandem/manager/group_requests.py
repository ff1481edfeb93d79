"""What the command line asks about groups and vTPMs, and what administrators have done there."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.errors import HostError, Refused
from tandem.manager.administration import Administration
from tandem.manager.ca import LIST_LIFE
from tandem.manager.clients import Client
from tandem.manager.commits import Commits
from tandem.manager.host import Host
from tandem.manager.pairs import Pairs
from tandem.manager.room import Room
from tandem.manager.vtpms import revoked_serials
from tandem.wire.group_rpc import (
    Administer,
    Administered,
    ApproveGroup,
    AskChallenge,
    AskGroup,
    AskGroups,
    AskRevocations,
    AskVtpm,
    AskVtpms,
    Challenge,
    GroupApproved,
    GroupShown,
    Names,
    RevocationsPage,
    VtpmShown,
)

NAMES_AT_ONCE: Final = 50  # of 63 characters at most: within one message
PAGE: Final = 3000


@dataclass(frozen=True, kw_only=True)
class SignedList:
    """A group's revocation list (DER), and what it was made of."""

    der: bytes
    ca: bytes  # certificate: a group of the same name may follow
    revoked: dict[bytes, int]
    made_at: datetime.datetime


class GroupRequests:
    """The handlers of these messages."""

    def __init__(self, host: Host, pairs: Pairs, commits: Commits) -> None:
        self._host = host
        self._groups = host.groups
        self._pairs = pairs
        self._commits = commits
        self._clock = host.groups.clock
        self._administration = Administration(host, pairs)
        self._challenges: WeakKeyDictionary[Client, bytes] = WeakKeyDictionary()
        self._lists: dict[str, SignedList] = {}

    def join(self, room: Room) -> None:
        """Answer the command line's messages in `room`."""
        room.on(AskGroups, lambda _, asked: _some(self._groups.names(), asked.after))
        room.on(AskVtpms, self._ask_vtpms)
        room.on(AskGroup, self._ask_group)
        room.on(AskVtpm, self._ask_vtpm)
        room.on(AskRevocations, self._ask_revocations)
        room.on(ApproveGroup, self._approve)
        room.on(AskChallenge, self._ask_challenge)
        room.on(Administer, self._administer)

    def _ask_vtpms(self, _: Client, asked: AskVtpms) -> Names:
        self._groups.record(asked.group)
        return _some(self._host.vtpms.of(asked.group), asked.after)

    def _ask_group(self, _: Client, asked: AskGroup) -> GroupShown:
        record = self._groups.record(asked.group)
        closed = ""
        try:
            self._groups.opened(asked.group)
        except (Refused, HostError) as error:
            closed = error.problem
        return GroupShown(
            group=asked.group,
            is_open=not closed,
            closed=closed[:500],
            own=bool(record.key),
            authority=self._groups.administrator(asked.group).public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            ),
            signers=record.signers,
            generation=record.generation,
            approvals=len(record.approvals),
            vtpms=self._host.vtpms.count(asked.group),
            running=self._pairs.running(asked.group),
            vtpms_most=record.vtpms_most,
            running_most=record.running_most,
            commits_most=record.commits_most,
            crl_number=record.crl_number,
            ca_certificate=record.ca_certificate,
        )

    def _ask_vtpm(self, _: Client, asked: AskVtpm) -> VtpmShown:
        owner = self._host.vtpms.group_of(asked.vtpm)
        if owner is not None:
            self._groups.opened(owner)
        group, record = self._host.vtpms.get(asked.vtpm)
        return VtpmShown(
            vtpm=asked.vtpm,
            group=group,
            guest=record.guest,
            vtpm_id=record.vtpm_id,
            launches=record.launches,
            state_version=record.state_version,
            running=self._pairs.is_open(asked.vtpm),
            signers=record.signers,
            threshold=record.threshold,
            ek_serials=record.ek_serials,
            ak_serials=tuple(record.ak_serials),
        )

    def _ask_revocations(self, client: Client, asked: AskRevocations) -> RevocationsPage | None:
        """Give a page of the list; one that was signed anew is answered once its number is kept."""
        fresh = asked.offset == 0 and self._renewed_list(asked.group)
        der = self._lists[asked.group].der if asked.group in self._lists else b""
        page = RevocationsPage(total=len(der), data=der[asked.offset : asked.offset + PAGE])
        if not fresh:
            return page

        def undo() -> None:
            self._lists.pop(asked.group, None)  # two may have been signed for one commit

        self._commits.answer_after(client, page, undo=undo)
        return None

    def _renewed_list(self, group: str) -> bool:
        """Sign a list where the last one does not say all, or is half as old as it may get."""
        now, record = self._clock(), self._groups.record(group)
        revoked = revoked_serials(self._host.store, group, now)
        known = self._lists.get(group)
        made_of = (record.ca_certificate, revoked)
        if known and (known.ca, known.revoked) == made_of and now - known.made_at < LIST_LIFE / 2:
            return False
        # The time keeps it rising over the restore of an older backup, too.
        number = max(record.crl_number + 1, int(now.timestamp()))
        with self._groups.authority(group) as authority:
            der = authority.revocation_list(revoked, number, now)
        self._groups.keep(group, replace(record, crl_number=number))
        self._lists[group] = SignedList(
            der=der, ca=record.ca_certificate, revoked=revoked, made_at=now
        )
        return True

    def _approve(self, client: Client, asked: ApproveGroup) -> None:
        record = self._administration.approve(asked)
        answer = GroupApproved(generation=record.generation, approvals=len(record.approvals))
        self._commits.answer_after(client, answer, undo=lambda: self._groups.close(asked.group))

    def _ask_challenge(self, client: Client, _: AskChallenge) -> Challenge:
        self._challenges[client] = self._administration.new_challenge()
        return Challenge(challenge=self._challenges[client], host=self._administration.host_name)

    def _administer(self, client: Client, asked: Administer) -> None:
        challenge = self._challenges.pop(client, None)
        if challenge is None:
            raise Refused(
                "TDM-ADMIN-NO-CHALLENGE",
                "an administrator's request without a fresh challenge of this Manager",
                hint="ask for a challenge on the same connection, for each request anew",
            )
        self._administration.perform(asked.action, asked.signature, challenge)
        self._commits.answer_after(client, Administered(), undo=self._host.vtpms.look)


def _some(names: Sequence[str], after: str) -> Names:
    following = [name for name in names if name > after]
    return Names(names=tuple(following[:NAMES_AT_ONCE]), more=len(following) > NAMES_AT_ONCE)
