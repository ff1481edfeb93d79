"""56: a signed policy update is spliced, or sent once more (DESIGN section 12).

Attacker: whoever carries the message.
Control: a model of GroupUpdate in Xen's vtpmmgr (no swtpm has such a command): the PCR selections
stand behind the signed bytes, and an equal sequence number is accepted (`old_seq > new_seq` is
refused).
Shows: an action is signed whole, for one connection's challenge, once (TDM-ADMIN-NOT-SIGNED,
TDM-ADMIN-NO-CHALLENGE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tandem.channel import Channel
from tandem.errors import TandemError
from tandem.wire.administration import ACTIONS, Action, SetLimits, sign_action
from tandem.wire.group_rpc import (
    Administer,
    Administered,
    AskChallenge,
    AskGroup,
    Challenge,
    GroupShown,
)
from tests.unit.manager.running_service import RunningService

KEY = ec.generate_private_key(ec.SECP256R1())
LIMITS = SetLimits(group="default", vtpms_most=10, running_most=10, commits_most=10)


@dataclass
class GroupUpdate:
    """What vtpmmgr keeps of a group's policy."""

    sequence: int = 0
    digests: bytes = b""
    selections: bytes = b""

    def update(self, sequence: int, digests: bytes, selections: bytes, signature: bytes) -> None:
        signed = sequence.to_bytes(8) + digests  # the selections come after it
        KEY.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        if self.sequence > sequence:
            raise ValueError("old")
        self.sequence, self.digests, self.selections = sequence, digests, selections


def test_control_selections_are_exchanged_and_an_old_update_comes_back() -> None:
    # Given a group's policy, and two updates that its administrator signed with one number
    group = GroupUpdate()
    old, new = (
        (7, digests, KEY.sign((7).to_bytes(8) + digests, ec.ECDSA(hashes.SHA256())))
        for digests in (b"old", b"new")
    )
    # When the newer one is spliced with other selections, and the older one sent again after it
    group.update(new[0], new[1], b"spliced", new[2])
    spliced = group.selections
    group.update(old[0], old[1], b"selections", old[2])
    # Then both are taken
    assert (spliced, group.digests) == (b"spliced", b"old")
    with pytest.raises(InvalidSignature):
        group.update(7, b"forged", b"", new[2])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    running = RunningService(tmp_path, KEY)
    yield running
    running.close()


def challenged(channel: Channel) -> Challenge:
    return channel.ask(AskChallenge(), Challenge)


def signed(action: Action, challenge: Challenge) -> Administer:
    encoded = ACTIONS.encode(action)
    signature = sign_action(KEY, challenge.challenge, challenge.host, encoded)
    return Administer(action=encoded, signature=signature)


def spliced(channel: Channel) -> Administer:
    whole = signed(LIMITS, challenged(channel))
    return replace(whole, action=ACTIONS.encode(replace(LIMITS, running_most=1000)))


def of_another_group(channel: Channel) -> Administer:
    whole = signed(LIMITS, challenged(channel))
    return replace(whole, action=ACTIONS.encode(replace(LIMITS, group="red")))


def sent_twice(channel: Channel) -> Administer:
    request = signed(LIMITS, challenged(channel))
    channel.ask(request, Administered)
    return request


def sent_after_another_challenge(channel: Channel) -> Administer:
    request = signed(LIMITS, challenged(channel))
    challenged(channel)
    return request


def for_another_host(channel: Channel) -> Administer:
    challenge = challenged(channel)
    return signed(LIMITS, replace(challenge, host=bytes(len(challenge.host))))


@pytest.mark.parametrize(
    "attack",
    [spliced, of_another_group, sent_twice, sent_after_another_challenge, for_another_host],
)
def test_an_action_holds_whole_once_and_here(
    service: RunningService, attack: Callable[[Channel], Administer]
) -> None:
    # Given an administrator's signed action in the hands of somebody else
    channel = service.connect()
    request = attack(channel)
    before = channel.ask(AskGroup(group="default"), GroupShown)
    # When it is changed, sent again, or sent elsewhere
    with pytest.raises(TandemError) as raised:
        channel.ask(request, Administered)
    # Then it is refused, and nothing changed
    assert raised.value.code in {"TDM-ADMIN-NOT-SIGNED", "TDM-ADMIN-NO-CHALLENGE"}
    assert channel.ask(AskGroup(group="default"), GroupShown) == before


def test_an_action_for_another_connections_challenge_is_refused(service: RunningService) -> None:
    # Given an action that was signed for the challenge of one connection
    mine, other = service.connect(), service.connect()
    request = signed(LIMITS, challenged(mine))
    challenged(other)
    # When it is sent over another one
    with pytest.raises(TandemError) as raised:
        other.ask(request, Administered)
    # Then it is refused there, and done where it belongs
    assert raised.value.code == "TDM-ADMIN-NOT-SIGNED"
    mine.ask(request, Administered)
    assert mine.ask(AskGroup(group="default"), GroupShown).running_most == 10
