"""What administrators may do: each signature is checked, then the change staged in the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tandem.errors import Refused, UntrustedInput, UsageError
from tandem.evidence.host_approval import (
    Approval,
    PublicKey,
    check_approval,
    parse_approval,
    write_approval,
)
from tandem.evidence.host_state import HostState, refuse_blank
from tandem.evidence.tpm_types import parse_public
from tandem.manager import records
from tandem.manager.groups import GroupTerms, found_group, group_subject
from tandem.manager.host import Host
from tandem.manager.libraries import Libraries
from tandem.manager.pairs import Pairs
from tandem.values import checked_name
from tandem.wire.administration import (
    ACTIONS,
    CHALLENGE_SIZE,
    AddGroup,
    AllowLibraries,
    DestroyVtpm,
    ForgetLibrary,
    MakeVtpmAnew,
    RemoveGroup,
    SetLimits,
    check_action,
)
from tandem.wire.group_rpc import ApproveGroup

GROUPS_MOST: Final = 256  # `host_export.MAX_GROUPS`
LIMIT_MOST: Final = 1_000_000
SIGNERS_MOST: Final = 16
SIGNER_MOST: Final = 128  # characters
APPROVALS_MOST: Final = 8  # a record takes no more


class Administration:
    """Performs actions; what they change is durable after the store's next commit."""

    def __init__(self, host: Host, pairs: Pairs) -> None:
        self._host = host
        self._groups = host.groups
        self._pairs = pairs
        self._clock = host.groups.clock

    @property
    def host_name(self) -> bytes:
        """The host's name in what is signed: the Name of its AK."""
        return parse_public(self._host.ptpm.ak_public).name

    def new_challenge(self) -> bytes:
        """Make a challenge for one action."""
        return os.urandom(CHALLENGE_SIZE)

    def perform(self, encoded: bytes, signature: bytes, challenge: bytes) -> None:
        """Do what the right administrator signed for this challenge."""
        action = ACTIONS.decode(encoded)
        act: Callable[[], None]
        match action:
            case AddGroup():
                key, act = self._host.identity.approver, lambda: self._add(action)
            case RemoveGroup():
                key, act = self._host.identity.approver, lambda: self._remove(action)
            case SetLimits():
                key, act = self._host.identity.approver, lambda: self._limit(action)
            case ForgetLibrary():
                key, act = self._host.identity.approver, lambda: self._forget(action)
            case AllowLibraries():
                key, act = self._administrator(action.group), lambda: self._allow(action)
            case DestroyVtpm():
                key, act = self._administrator(action.group), lambda: self._destroy(action)
            case MakeVtpmAnew():
                key, act = self._administrator(action.group), lambda: self._make_anew(action)
            case _:
                raise _no_action()
        check_action(key, signature, challenge, self.host_name, encoded)
        act()

    def approve(self, asked: ApproveGroup) -> records.GroupRecord:
        """Take a state that a group's administrator signed; gives the group's record."""
        record = self._groups.record(asked.group)
        asked_for = Approval(
            subject=group_subject(asked.group),
            generation=asked.generation,
            state=HostState(banks=asked.banks),
            signature=asked.signature,
        )
        approval = parse_approval(write_approval(asked_for))  # refused as a file would be
        check_approval(approval, self._administrator(asked.group))
        refuse_blank(approval.state)
        if record.key:
            raise Refused(
                "TDM-GROUP-OF-THE-HOST",
                f"group {asked.group} is the host's own and opens with it",
                hint="approve the host's state with `tandem host approve`",
            )
        if asked.generation == record.generation + 1:
            record = self._groups.renew(asked.group, asked.generation)
        elif asked.generation != record.generation:
            raise Refused(
                "TDM-APPROVAL-FOR-ANOTHER",
                f"the approval is for generation {asked.generation} of group {asked.group}, which "
                f"has {record.generation}",
                hint=f"sign the state anew: `tandem group approve {asked.group}`",
            )
        written = write_approval(approval)
        kept = tuple(each for each in record.approvals if each != written)
        if len(kept) >= APPROVALS_MOST:
            raise Refused(
                "TDM-GROUP-APPROVALS-FULL",
                f"group {asked.group} has {len(kept)} approved states already",
                hint="begin a new generation, which only the new approval opens, with --renew",
            )
        record = replace(record, approvals=(*kept, written))
        self._groups.keep(asked.group, record)
        return record

    def _administrator(self, group: str) -> PublicKey:
        return self._groups.administrator(checked_name(group, "group"))

    def _add(self, action: AddGroup) -> None:
        checked_name(action.group, "group")
        names = self._groups.names()
        if action.group in names:
            raise Refused(
                "TDM-GROUP-EXISTS",
                f"there is a group {action.group} on this host already",
                hint="choose another name; see `tandem group list`",
            )
        if len(names) >= GROUPS_MOST:
            raise Refused(
                "TDM-GROUP-TOO-MANY",
                f"the host has {len(names)} groups and takes no more",
                hint="remove one that nobody uses, or make another host",
            )
        _check_limits(action)
        terms = GroupTerms(
            name=action.group,
            authority=_public_key(action.authority),
            signers=_checked_signers(action.signers),
            vtpms_most=action.vtpms_most,
            running_most=action.running_most,
            commits_most=action.commits_most,
        )
        self._groups.keep(action.group, found_group(self._host.ptpm, terms, self._clock()))

    def _remove(self, action: RemoveGroup) -> None:
        self._groups.record(action.group)
        if action.group == records.DEFAULT_GROUP:
            raise Refused(
                "TDM-GROUP-OF-THE-HOST",
                f"group {action.group} is the host's own and stays as long as it",
                hint="destroy its vTPMs with `tandem vtpm destroy`",
            )
        vtpms = self._host.vtpms.of(action.group)
        if self._pairs.running(action.group) or (vtpms and not action.vtpms):
            raise Refused(
                "TDM-GROUP-IN-USE",
                f"group {action.group} has {len(vtpms)} vTPMs, and "
                f"{self._pairs.running(action.group)} running pairs",
                hint="stop its guests; its vTPMs are lost with it where you say --with-vtpms",
            )
        for vtpm in vtpms:  # whether it was ever launched is not known of a closed group's
            self._pairs.require_accounted(vtpm)
        self._host.vtpms.drop(action.group)
        self._groups.remove(action.group)

    def _limit(self, action: SetLimits) -> None:
        _check_limits(action)
        record = replace(
            self._groups.record(action.group),
            vtpms_most=action.vtpms_most,
            running_most=action.running_most,
            commits_most=action.commits_most,
        )
        self._groups.keep(action.group, record)

    def _forget(self, action: ForgetLibrary) -> None:
        if not Libraries(self._host.store).forget(action.library):
            raise Refused(
                "TDM-LIBRARY-UNKNOWN",
                f"no guest was ever started from a library {action.library}",
                hint="give the name that `tandem library list` shows",
            )

    def _allow(self, action: AllowLibraries) -> None:
        signers = _checked_signers(action.signers)
        record = replace(self._groups.record(action.group), signers=signers)
        self._groups.keep(action.group, record)

    def _destroy(self, action: DestroyVtpm) -> None:
        self._require_idle(action)
        self._host.vtpms.destroy(action.vtpm, self._clock())

    def _make_anew(self, action: MakeVtpmAnew) -> None:
        self._require_idle(action)
        self._host.vtpms.make_anew(action.vtpm, self._clock())

    def _require_idle(self, action: DestroyVtpm | MakeVtpmAnew) -> None:
        """Refuse a vTPM of another group, or one whose guest runs."""
        self._groups.opened(action.group)
        owner = self._host.vtpms.group_of(action.vtpm)
        if owner is not None and owner != action.group:
            raise Refused(
                "TDM-VTPM-OF-ANOTHER",
                f"vTPM {action.vtpm} does not belong to group {action.group}",
                hint="ask its own group's administrator",
            )
        if self._pairs.is_open(action.vtpm):
            raise Refused(
                "TDM-VTPM-IN-USE",
                f"vTPM {action.vtpm} is in use by a running pair",
                hint="stop that guest first",
            )
        if owner is not None:
            self._require_accounted(action.vtpm)

    def _require_accounted(self, vtpm: str) -> None:
        """Refuse a vTPM that was launched, and may live since before this Manager's start."""
        _, known = self._host.vtpms.get(vtpm)
        if known.launches:
            self._pairs.require_accounted(vtpm)


def _check_limits(action: AddGroup | SetLimits) -> None:
    limits = (action.vtpms_most, action.running_most, action.commits_most)
    if not all(0 < limit <= LIMIT_MOST for limit in limits):
        raise UsageError(
            "TDM-GROUP-LIMITS-BAD",
            f"limits {limits} are not all from 1 to {LIMIT_MOST}",
            hint="give numbers of vTPMs, of running pairs, and of states a second",
        )


def _checked_signers(signers: tuple[str, ...]) -> tuple[str, ...]:
    bad = [each for each in signers if not (each.isascii() and each.isprintable())]
    if bad or len(signers) > SIGNERS_MOST or any(len(each) > SIGNER_MOST for each in signers):
        raise UsageError(
            "TDM-GROUP-SIGNERS-BAD",
            f"not up to {SIGNERS_MOST} key ids of up to {SIGNER_MOST} characters",
            hint="give the ids that `tandem library show` names",
        )
    return tuple(sorted(set(signers)))


def _public_key(der: bytes) -> PublicKey:
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(
            "TDM-GROUP-KEY-BAD",
            "the group's key is not a P-256 public key",
            hint="let its administrator make one with `tandem group add`, or with openssl",
        )
    return key


def _no_action() -> UntrustedInput:
    return UntrustedInput(
        "TDM-ADMIN-UNKNOWN",
        "no action of an administrator",
        hint="both sides must be of one version: restart the host's services",
        offset=0,
    )
