"""Groups: opened where their administrator approved, and closed to everybody else's key."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.errors import HostError, Refused, TandemError, UntrustedInput, UsageError
from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.evidence.host_approval import approve
from tandem.evidence.host_state import HostState, StateDocument
from tandem.evidence.tpm_types import parse_public
from tandem.manager import records
from tandem.manager.administration import APPROVALS_MOST, Administration
from tandem.manager.clients import Client
from tandem.manager.commits import Commits
from tandem.manager.group_requests import GroupRequests
from tandem.manager.groups import Groups
from tandem.manager.host import Host
from tandem.manager.pairs import Pair, Pairs
from tandem.values import Secret
from tandem.wire.administration import (
    ACTIONS,
    Action,
    AddGroup,
    AllowLibraries,
    DestroyVtpm,
    MakeVtpmAnew,
    RemoveGroup,
    SetLimits,
    sign_action,
)
from tandem.wire.group_rpc import ApproveGroup, AskRevocations
from tandem.wire.manager_rpc import CommitState, OpenPair
from tandem.wire.messages import Message
from tests.unit.manager.software_host import NOW, SoftwarePtpm, open_pair, software_host

PrivateKey = ec.EllipticCurvePrivateKey
CHALLENGE = bytes(32)
HOUR = datetime.timedelta(hours=1)


@dataclass
class Tenants:
    """A host with tenants red and blue, whose present state both approved."""

    host: Host
    ptpm: SoftwarePtpm
    keys: dict[str, PrivateKey]
    now: datetime.datetime = NOW

    def __post_init__(self) -> None:
        self.pairs = Pairs(self.host, lambda: self.now)
        self.administration = Administration(self.host, self.pairs)

    def do(self, whose: str, action: Action) -> None:
        """Have an administrator's action performed and made durable."""
        name = parse_public(self.host.ptpm.ak_public).name
        encoded = ACTIONS.encode(action)
        signature = sign_action(self.keys[whose], CHALLENGE, name, encoded)
        self.administration.perform(encoded, signature, CHALLENGE)
        self.host.store.commit()

    def approve(
        self, group: str, *, generation: int = 1, key: str = "", **values: bytes
    ) -> records.GroupRecord:
        """Approve the present state, or one in which registers named `pcr8` differ."""
        changed = {int(name.removeprefix("pcr")): value for name, value in values.items()}
        state = HostState(banks={"sha256": self.ptpm.registers | changed})
        document = StateDocument(subject=f"group/{group}", generation=generation, state=state)
        signed = approve(document, self.keys[key or group])
        asked = ApproveGroup(
            group=group,
            generation=generation,
            banks={"sha256": dict(state.banks["sha256"])},
            signature=signed.signature,
        )
        record = self.administration.approve(asked)
        self.host.store.commit()
        return record

    def restarted(self) -> Groups:
        """Give the groups as the next start of the Manager finds them."""
        for group in self.keys:
            self.host.store.lock(group)
        approver = self.keys["host"].public_key()
        return Groups(self.host.store, self.host.ptpm, lambda: self.now, approver)

    def launch(self, name: str, group: str) -> Pair:
        pair, _ = self.pairs.open(replace(open_pair(name, guest=name), group=group))
        self.host.store.commit()
        return pair


def add(group: str, key: PrivateKey) -> AddGroup:
    return AddGroup(
        group=group,
        authority=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        signers=(),
        vtpms_most=3,
        running_most=2,
        commits_most=100,
    )


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("host", "red", "blue")}
    found = Tenants(*software_host(tmp_path, keys["host"]), keys)
    for group in ("red", "blue"):
        found.do("host", add(group, keys[group]))
        found.approve(group)
    yield found
    found.host.store.close()


def contents(tenants: Tenants) -> dict[str, bytes | None]:
    """Give every record of the host."""
    store = tenants.host.store
    return {name: store.get(name) for name in store.names("")}


def code_of(raised: pytest.ExceptionInfo[TandemError]) -> str:
    return raised.value.code


def test_a_closed_groups_records_are_read_by_nobody(tenants: Tenants) -> None:
    # Given a vTPM of group red, and a Manager that was started again
    tenants.launch("web", "red")
    groups = tenants.restarted()
    name = records.vtpm_id("red", "web")
    # When its record is read while only blue is open, and with blue's key
    blue = groups.opened("blue").key
    with pytest.raises(Refused) as closed:
        tenants.host.store.get(name)
    with pytest.raises(TandemError):
        tenants.host.store.unlock("red", blue)
    with pytest.raises(Refused) as still:
        tenants.host.store.get(name)
    # Then it cannot be, and once red is open it can
    assert {closed.value.code, still.value.code} == {"TDM-STORE-GROUP-LOCKED"}
    groups.opened("red")
    assert tenants.host.store.get(name)


def test_one_groups_key_does_not_use_the_ca_key_of_another(tenants: Tenants) -> None:
    # Given two open groups
    red, blue = (tenants.host.groups.opened(name) for name in ("red", "blue"))
    assert red.key.reveal() != blue.key.reveal()
    # When blue's CA key is used in red's name
    record = tenants.host.groups.record("red")
    tenants.host.groups.keep("red", replace(
        record, ca_private=tenants.host.groups.record("blue").ca_private
    ))  # fmt: skip
    with pytest.raises(HostError), tenants.host.groups.authority("red"):
        pass
    # Then its authValue, which is derived from blue's key, is lacking


def test_a_state_that_nobody_approved_leaves_one_group_closed(tenants: Tenants) -> None:
    # Given a host that boots into a state that blue approved before, and red did not
    changed = b"\x07" * 31 + b"\x08"
    tenants.approve("blue", pcr8=changed)
    tenants.ptpm.registers[8] = changed
    groups = tenants.restarted()
    # When both are needed
    with pytest.raises(Refused) as raised:
        groups.opened("red")
    # Then red is closed by name, and blue and the host's own open
    assert code_of(raised) == "TDM-GROUP-CLOSED"
    assert "group red" in raised.value.problem
    assert "PCR 8" in raised.value.problem
    assert groups.opened("blue").name == "blue"
    assert groups.opened("default").name == "default"


def test_a_renewed_generation_withdraws_earlier_approvals(tenants: Tenants) -> None:
    # Given a group with two approved states
    tenants.approve("red", pcr8=b"\x01" * 31 + b"\x02")
    # When its administrator approves one for the next generation
    record = tenants.approve("red", generation=2)
    # Then it alone counts, and one of the first generation is refused
    assert (record.generation, len(record.approvals)) == (2, 1)
    with pytest.raises(Refused) as raised:
        tenants.approve("red", generation=1)
    assert code_of(raised) == "TDM-APPROVAL-FOR-ANOTHER"
    assert tenants.restarted().opened("red").name == "red"


def test_a_new_generation_is_under_a_new_key(tenants: Tenants) -> None:
    # Given a vTPM that runs, and somebody who came by the group's key
    pair = tenants.launch("web", "red")
    former = tenants.host.groups.opened("red").key
    ca = tenants.host.groups.record("red").ca_certificate
    # When the administrator begins a new generation, and the vTPM goes on
    tenants.pairs.welcome(pair)
    tenants.approve("red", generation=2)
    tenants.pairs.commit_state(pair, CommitState(version=1, digest=b"1" * 32))
    tenants.host.store.commit()
    # Then that key opens neither the records nor the CA key, and the next start finds all there
    groups = tenants.restarted()
    with pytest.raises(TandemError):
        tenants.host.store.unlock("red", former)
    fresh = groups.opened("red").key
    assert fresh.reveal() != former.reveal()
    assert tenants.host.vtpms.get("web")[1].state_version == 1
    assert groups.record("red").ca_certificate == ca
    with groups.authority("red") as authority:
        assert issued_by(parse_certificate(authority.own_certificate(NOW)), parse_certificate(ca))


def test_a_new_generation_that_was_not_written_leaves_the_former(tenants: Tenants) -> None:
    # Given a vTPM, and a disk that does not take the next commit
    tenants.pairs.close(tenants.launch("web", "red").pair_id)
    former = tenants.host.groups.opened("red").key.reveal()
    # When a new generation is begun, and taken back
    tenants.host.groups.renew("red", 2)
    tenants.host.store._staged.clear()
    tenants.host.groups.close("red")
    # Then the group opens as before
    assert tenants.host.groups.opened("red").key.reveal() == former
    assert tenants.host.vtpms.get("web")[1].launches == 1


def test_the_hosts_own_group_follows_it_to_a_new_master_key(tenants: Tenants) -> None:
    # Given vTPMs of the host's own group and of a tenant's, and a new master key
    for name, group in (("web", "default"), ("red-web", "red")):
        tenants.launch(name, group)
    groups, store = tenants.host.groups, tenants.host.store
    former = {name: groups.opened(name).key.reveal() for name in ("default", "red")}
    # When the groups follow, twice
    groups.follow(2)
    store.commit()
    groups.follow(2)
    # Then the host's own is under a new key, once, and the tenant's, which only he renews, is not
    assert not store.dirty
    fresh = tenants.restarted()
    assert fresh.record("default").generation == 2
    assert fresh.opened("default").key.reveal() != former["default"]
    assert fresh.opened("red").key.reveal() == former["red"]
    store.lock("default")
    with pytest.raises(TandemError):
        store.unlock("default", Secret(former["default"]))
    with fresh.authority("default"):
        pass


def test_a_vtpm_goes_on_after_a_new_generation_that_was_not_written(tenants: Tenants) -> None:
    # Given a vTPM that runs, and a new generation that the disk did not take
    pair = tenants.launch("web", "red")
    tenants.pairs.welcome(pair)
    tenants.host.groups.renew("red", 2)
    tenants.host.store._staged.clear()
    tenants.host.groups.close("red")
    # When its next state is committed
    tenants.pairs.commit_state(pair, CommitState(version=1, digest=b"1" * 32))
    tenants.host.store.commit()
    # Then it is durable
    assert tenants.host.vtpms.get("web")[1].state_version == 1


@pytest.mark.parametrize(
    ("group", "key", "generation", "code"),
    [
        ("red", "blue", 1, "TDM-APPROVAL-NOT-SIGNED"),
        ("red", "host", 1, "TDM-APPROVAL-NOT-SIGNED"),
        ("red", "red", 3, "TDM-APPROVAL-FOR-ANOTHER"),
        ("default", "host", 1, "TDM-GROUP-OF-THE-HOST"),
        ("green", "red", 1, "TDM-GROUP-UNKNOWN"),
    ],
)
def test_an_approval_opens_the_group_of_its_signer_alone(
    tenants: Tenants, group: str, key: str, generation: int, code: str
) -> None:
    # Given an approval of another group's administrator, the host's, or for another generation
    # When it is brought in
    with pytest.raises(TandemError) as raised:
        tenants.approve(group, key=key, generation=generation)
    # Then it is refused
    assert code_of(raised) == code


def test_a_state_with_an_unmeasured_register_is_not_approved(tenants: Tenants) -> None:
    # Given a signed state in which a register holds nothing but zeros
    # When it is brought in
    with pytest.raises(Refused) as raised:
        tenants.approve("red", pcr8=bytes(32))
    # Then it is refused: sealing to it protects nothing
    assert code_of(raised) == "TDM-SEAL-UNMEASURED-PCR"


def test_approvals_are_bounded(tenants: Tenants) -> None:
    # Given as many approved states as a group may have
    for number in range(1, APPROVALS_MOST):
        tenants.approve("red", pcr8=number.to_bytes(32))
    # When one more is brought in, and one that is there already
    with pytest.raises(Refused) as raised:
        tenants.approve("red", pcr8=(99).to_bytes(32))
    # Then the new one is refused, and the known one is no second one
    assert code_of(raised) == "TDM-GROUP-APPROVALS-FULL"


@pytest.mark.parametrize(
    ("whose", "action"),
    [
        ("red", SetLimits(group="red", vtpms_most=9, running_most=9, commits_most=9)),
        ("red", RemoveGroup(group="blue", vtpms=True)),
        ("red", DestroyVtpm(group="blue", vtpm="web")),
        ("red", AllowLibraries(group="blue", signers=("mine",))),
        ("host", DestroyVtpm(group="blue", vtpm="web")),
        ("host", AllowLibraries(group="blue", signers=("mine",))),
    ],
)
def test_an_action_is_done_for_who_may_do_it(tenants: Tenants, whose: str, action: Action) -> None:
    # Given a vTPM of group blue
    pair = tenants.launch("web", "blue")
    tenants.pairs.close(pair.pair_id)
    before = contents(tenants)
    # When somebody signs what is not his: a tenant his own limits, the host a tenant's vTPM
    with pytest.raises(Refused) as raised:
        tenants.do(whose, action)
    # Then it is refused, and no record changed
    assert code_of(raised) == "TDM-ADMIN-NOT-SIGNED"
    assert contents(tenants) == before


def test_a_vtpm_named_in_the_signers_group_but_of_another_is_not_destroyed(
    tenants: Tenants,
) -> None:
    # Given a vTPM of group blue
    tenants.pairs.close(tenants.launch("web", "blue").pair_id)
    # When red's administrator says that it is red's
    with pytest.raises(Refused) as raised:
        tenants.do("red", DestroyVtpm(group="red", vtpm="web"))
    # Then it is refused
    assert code_of(raised) == "TDM-VTPM-OF-ANOTHER"


@pytest.mark.parametrize(
    ("whose", "action"),
    [
        ("red", DestroyVtpm(group="red", vtpm="web")),
        ("red", MakeVtpmAnew(group="red", vtpm="web")),
        ("host", RemoveGroup(group="red", vtpms=True)),
    ],
)
def test_a_vtpm_that_may_live_since_before_the_managers_start_is_kept(
    tenants: Tenants, whose: str, action: Action
) -> None:
    # Given a vTPM that was launched, and a Manager that was started again since
    tenants.launch("web", "red")
    tenants.__post_init__()
    # When it is to be destroyed, made anew or removed, before the builder says what lives and after
    with pytest.raises(Refused) as raised:
        tenants.do(whose, action)
    tenants.pairs.attend()
    tenants.do(whose, action)
    # Then only the builder's word lets it go
    assert code_of(raised) == "TDM-VTPM-IN-USE"


def test_a_group_that_cannot_be_opened_is_removed_whole(tenants: Tenants) -> None:
    # Given a group with a vTPM, whose administrator approved no state that ever comes again
    tenants.pairs.close(tenants.launch("web", "red").pair_id)
    tenants.ptpm.registers[8] = b"\x05" * 31 + b"\x06"
    tenants.restarted()
    # When the host's administrator removes it, saying that its vTPMs go, too
    with pytest.raises(Refused) as raised:
        tenants.do("host", RemoveGroup(group="red", vtpms=False))
    tenants.do("host", RemoveGroup(group="red", vtpms=True))
    # Then nothing is left of it
    assert code_of(raised) == "TDM-GROUP-IN-USE"
    assert not [name for name in tenants.host.store.names("") if "red" in name]


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (lambda key: add("red", key), "TDM-GROUP-EXISTS"),
        (lambda key: add("No Name", key), "TDM-NAME-NOT-A-LABEL"),
        (lambda key: replace(add("green", key), authority=b"no key"), "TDM-GROUP-KEY-BAD"),
        (lambda key: replace(add("green", key), vtpms_most=0), "TDM-GROUP-LIMITS-BAD"),
        (lambda key: replace(add("green", key), signers=("\n",)), "TDM-GROUP-SIGNERS-BAD"),
    ],
)
def test_a_group_that_makes_no_sense_is_not_founded(
    tenants: Tenants, action: object, code: str
) -> None:
    # Given two groups
    # When one is asked for that cannot be
    assert callable(action)
    with pytest.raises((Refused, UsageError)) as raised:
        tenants.do("host", action(tenants.keys["red"]))
    # Then it is refused by name
    assert raised.value.code == code


def test_a_destroyed_vtpm_is_a_tombstone_with_its_serial_numbers(tenants: Tenants) -> None:
    # Given a vTPM whose record has serial numbers
    tenants.pairs.close(tenants.launch("web", "red").pair_id)
    _, record = tenants.host.vtpms.get("web")
    end = int((NOW + HOUR).timestamp())
    known = replace(record, ek_serials=(b"\1", b"\2"), ak_serials={b"\3": end})
    tenants.host.vtpms.keep("web", known)
    # When its administrator destroys it
    tenants.do("red", DestroyVtpm(group="red", vtpm="web"))
    # Then its key is gone, and what it had is kept for the list
    [tombstone] = tenants.host.store.names(records.tombstone_prefix("red"))
    content = tenants.host.store.get(tombstone)
    assert content is not None
    buried = records.decode(records.TombstoneRecord, content)
    assert (buried.ek_serials, buried.ak_serials) == ((b"\1", b"\2"), {b"\3": end})
    assert tenants.host.store.get(records.vtpm_id("red", "web")) is None


def test_issuing_keys_are_replaced_and_forgotten_in_time(tenants: Tenants) -> None:
    # Given an open group, and half a day
    groups = tenants.restarted()
    first = groups.opened("red").issuing
    tenants.now = NOW + 13 * HOUR
    # When keys are renewed, and then the pTPM fails for more than a day
    assert groups.renew_keys() == []
    second = groups.opened("red").issuing
    tenants.ptpm.failure = HostError("TDM-PTPM-GONE", "the pTPM is gone", hint="start again")
    tenants.now = NOW + 26 * HOUR
    failed = groups.renew_keys()
    kept = groups.opened("red").issuing
    tenants.now = NOW + 38 * HOUR
    groups.renew_keys()
    # Then new keys came after half a day, those stay while they may sign, and then they are gone
    assert first is not second
    assert kept is second
    assert [error.code for error in failed] == ["TDM-PTPM-GONE"]
    assert not groups.is_open("red")
    tenants.ptpm.failure = None
    assert groups.opened("red").issuing.usable(tenants.now)


def test_a_ca_key_that_the_ptpm_refuses_is_no_reason_to_end(tenants: Tenants) -> None:
    # Given issuing keys that are due, and a pTPM that does not load the CA key any more
    groups = tenants.restarted()
    groups.opened("red")
    tenants.now = NOW + 13 * HOUR
    tenants.ptpm.failure = Refused("TDM-PTPM-FOREIGN-KEYS", "of another TPM", hint="none")
    # When they are to be renewed
    failed = groups.renew_keys()
    # Then that is reported, and the keys that are there go on
    assert [error.code for error in failed] == ["TDM-PTPM-FOREIGN-KEYS"]
    assert groups.opened("red").issuing.usable(tenants.now)


class UnwrittenCommits:
    """Takes answers that wait, and has them all undone."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def answer_after(self, _: Client, __: Message, *, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    def fail(self) -> None:
        for undo in self._undo:
            undo()


def test_two_lists_of_one_commit_that_was_not_written_are_signed_again(tenants: Tenants) -> None:
    # Given a list that was signed anew, a vTPM destroyed after it, and another list, all unwritten
    commits, client = UnwrittenCommits(), cast("Client", None)
    requests = GroupRequests(tenants.host, tenants.pairs, cast("Commits", commits))
    asked = AskRevocations(group="red", offset=0)
    tenants.pairs.close(tenants.launch("web", "red").pair_id)
    _, record = tenants.host.vtpms.get("web")
    tenants.host.vtpms.keep("web", replace(record, ek_serials=(b"\1",)))
    assert requests._ask_revocations(client, asked) is None
    tenants.host.vtpms.destroy("web", NOW)
    assert requests._ask_revocations(client, asked) is None
    # When the commit fails
    commits.fail()
    # Then nobody is told of either, and the next who asks waits for one of his own
    assert requests._ask_revocations(client, asked) is None


@pytest.mark.parametrize(("challenge", "host"), [(33, 34), (32, 35), (64, 2), (0, 0)])
def test_nobody_signs_for_a_challenge_of_another_size(challenge: int, host: int) -> None:
    # Given what somebody at the Manager's socket says is a challenge, and the host's name
    key = ec.generate_private_key(ec.SECP256R1())
    # When an administrator's action is signed for it
    with pytest.raises(UntrustedInput) as raised:
        sign_action(key, bytes(challenge), bytes(host), b"an action")
    # Then that is refused: a part of them would pass for a part of the action
    assert code_of(raised) == "TDM-ADMIN-CHALLENGE-BAD"


@pytest.mark.parametrize(
    ("asked", "owner"),
    [
        (replace(open_pair(), group="red"), "group default"),
        (open_pair(guest="thief"), "guest web in group default"),
    ],
)
def test_a_vtpm_is_not_lent(tenants: Tenants, asked: OpenPair, owner: str) -> None:
    # Given a vTPM of one guest in one group
    tenants.pairs.close(tenants.launch("web", "default").pair_id)
    # When another guest, or the same name in another group, asks for it
    with pytest.raises(Refused) as raised:
        tenants.pairs.open(asked)
    # Then it is refused and the owner named, and the owner's next launch is the second
    assert raised.value.code == "TDM-VTPM-OF-ANOTHER"
    assert owner in raised.value.problem
    assert tenants.pairs.open(open_pair())[1].launch_number == 2


def test_a_group_is_the_hosts_only_with_the_hosts_key(tenants: Tenants) -> None:
    # Given the host's own group, whose key is in its record
    record = tenants.host.groups.record("default")
    # When its administrator is asked for
    key = tenants.host.groups.administrator("default")
    # Then it is whoever has the host's approval key
    assert Secret(record.key).reveal() == tenants.host.groups.opened("default").key.reveal()
    assert key.public_numbers() == tenants.keys["host"].public_key().public_numbers()
