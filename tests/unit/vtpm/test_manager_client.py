"""A vTPM without its Manager: what it waits for, what it asks again, and what settles a commit."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tandem import channel
from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused
from tandem.values import Secret
from tandem.vtpm import manager_client
from tandem.vtpm.key_channels import KeyChannel, KeyChannels
from tandem.vtpm.manager_client import ManagerClient, Membership, settled
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    AskDeepQuote,
    CommitState,
    Rejoin,
    Rejoined,
    RenewAk,
    StateCommitted,
)

NEWEST = (4, b"d" * 32)
PENDING = CommitState(version=5, digest=b"e" * 32)
SAME = Rejoined(state_version=4, state_digest=b"d" * 32)
MEMBERSHIP = Membership(
    pair_id=b"p" * 16,
    record=b"record",
    ak=b"ak",
    ticket=Secret(b"t" * 32),
    key=Secret(b"k" * 32),
    newest=lambda: NEWEST,
)


def manager(*answers: object) -> tuple[socket.socket, Channel]:
    """Give a vTPM's end, and a Manager's on which these answers wait."""
    ours, theirs = channel.pair()
    made = Channel(theirs, sends=VTPM_ANSWERS, receives=VTPM_REQUESTS)
    for each in answers:
        made.send(each)
    return ours, made


@pytest.mark.parametrize(
    ("recorded", "pending", "done"),
    [
        ((5, b"e" * 32), PENDING, True),
        ((4, b"d" * 32), PENDING, False),
        ((4, b"d" * 32), AskDeepQuote(vtpm_quote_digest=bytes(32)), False),
    ],
)
def test_an_unanswered_commit_is_settled(
    recorded: tuple[int, bytes], pending: object, done: bool
) -> None:
    # Given what the next Manager recorded last
    version, digest = recorded
    # When the vTPM compares it with what it was told and what it asked
    # Then it knows whether to ask again
    told = Rejoined(state_version=version, state_digest=digest)
    assert settled(told, NEWEST, pending) is done


@pytest.mark.parametrize(
    "recorded",
    [(3, b"c" * 32), (4, b"x" * 32), (5, b"x" * 32), (6, b"e" * 32), (5, b"e" * 32)],
)
def test_a_state_that_is_neither_is_a_fork(recorded: tuple[int, bytes]) -> None:
    # Given a Manager with an older store, or one at which somebody else committed
    told = Rejoined(state_version=recorded[0], state_digest=recorded[1])
    # When nothing of this vTPM explains that
    pending = RenewAk() if recorded == (5, b"e" * 32) else PENDING
    # Then it goes no further
    with pytest.raises(Refused) as refused:
        settled(told, NEWEST, pending)
    assert refused.value.code == "TDM-STATE-FORKED"


def test_a_vtpm_whose_guest_never_ran_waits_for_no_other_manager() -> None:
    # Given a vTPM in preparation
    ours, theirs = manager()
    client = ManagerClient(ours)
    asked = client.hello()
    # When its Manager dies
    theirs.close()
    # Then it gives up at once, before an answer and when it asks again
    for ask in (asked, client.hello):
        with pytest.raises(HostError) as error:
            ask()
        assert error.value.code == "TDM-MANAGER-GONE"


def test_a_wait_for_thesuccessor_manager_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a vTPM whose Manager does not come back
    monkeypatch.setattr(manager_client, "AWAY_SECONDS", 0.05)
    ours, theirs = manager()
    client = ManagerClient(ours)
    client.remember(MEMBERSHIP)
    theirs.close()
    # When it commits
    with pytest.raises(HostError) as error:
        client.commit(PENDING.version, PENDING.digest)()
    # Then the pair ends by name
    assert error.value.code == "TDM-MANAGER-GONE"


def test_a_manager_that_took_its_time_was_not_away(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a Manager with a slow pTPM, which dies after longer than a vTPM waits for the next one
    monkeypatch.setattr(manager_client, "AWAY_SECONDS", 0.3)
    ours, slow = manager()
    client = ManagerClient(ours)
    client.remember(MEMBERSHIP)
    living, successor = manager(SAME, StateCommitted(version=5))

    def die_and_come_again() -> None:
        time.sleep(0.4)
        slow.close()
        time.sleep(0.1)
        client.key_channels.give(KeyChannel(living, b"1" * 32))

    story = threading.Thread(target=die_and_come_again)
    story.start()
    # When a vTPM that asked the slow one waits for its answer
    client.commit(PENDING.version, PENDING.digest)()
    # Then it had the whole of that time for the next one
    story.join()
    successor.close()


def test_a_question_is_asked_again_of_the_manager_aftersuccessor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given two Managers of which the first dies before it hears the vTPM
    ours, theirs = manager()
    client = ManagerClient(ours)
    client.remember(MEMBERSHIP)
    theirs.close()
    dead, gone = manager()
    gone.close()
    living, last = manager(SAME, StateCommitted(version=5))
    coming = [KeyChannel(dead, b"1" * 32), KeyChannel(living, b"2" * 32)]
    monkeypatch.setattr(client.key_channels, "take", lambda _: coming.pop(0))
    # When the vTPM commits
    client.commit(PENDING.version, PENDING.digest)()
    # Then the living one was told who it is, and asked
    assert isinstance(last.receive()[0], Rejoin)
    assert last.receive()[0] == PENDING
    last.close()


def test_a_vtpm_has_nothing_more_to_do_with_a_manager_that_forked() -> None:
    # Given a Manager that comes back with an older store
    ours, theirs = manager()
    client = ManagerClient(ours)
    client.remember(MEMBERSHIP)
    theirs.close()
    again, older = manager(Rejoined(state_version=3, state_digest=b"c" * 32))
    client.key_channels.give(KeyChannel(again, b"1" * 32))
    # When the vTPM asks it for a deep quote, and for another
    with pytest.raises(Refused) as forked:
        client.deep_quote(bytes(32))
    with pytest.raises(HostError) as gone:
        client.deep_quote(bytes(32))
    # Then the first has no answer, and the second is not asked
    assert forked.value.code == "TDM-STATE-FORKED"
    assert gone.value.code == "TDM-MANAGER-GONE"
    assert isinstance(older.receive()[0], Rejoin)
    with pytest.raises(Closed):
        older.receive()
    older.close()


def test_only_the_newest_key_channel_is_kept() -> None:
    # Given two channels, one after the other
    channels = KeyChannels()
    first, old = manager()
    second, new = manager()
    channels.give(KeyChannel(first, b"1" * 32))
    channels.give(KeyChannel(second, b"2" * 32))
    # When one is taken
    taken = channels.take(0)
    # Then it is the newest, the other is closed, and there is no third
    assert taken is not None
    assert taken.nonce == b"2" * 32
    with pytest.raises(Closed):
        old.receive()
    assert channels.take(0) is None
    taken.sock.close()
    new.close()
