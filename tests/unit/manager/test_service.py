"""The Manager's loop: everybody is answered, nobody holds it up, and hostile ones are dropped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.channel import Channel, Closed
from tandem.errors import HostError, TandemError
from tandem.manager.store import NotWritten
from tandem.wire.manager_rpc import (
    BUILDER_REQUESTS,
    Activate,
    Activated,
    AskDeepQuote,
    AskStatus,
    ClosePair,
    CommitState,
    DeepQuoted,
    Hello,
    HostStatus,
    PairClosed,
    PairOpened,
    StateCommitted,
    Welcome,
)
from tests.unit.manager.running_service import RunningService
from tests.unit.manager.software_host import open_pair


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    running = RunningService(tmp_path)
    yield running
    running.close()


def keep_busy(service: RunningService, vtpm: Channel) -> None:
    """Let a vTPM's deep quote keep the Manager at the pTPM until `may_quote` is set."""
    service.ptpm.may_quote.clear()
    service.ptpm.quoting.clear()
    vtpm.send(AskDeepQuote(vtpm_quote_digest=bytes(32)))
    assert service.ptpm.quoting.wait(10)


def status(service: RunningService) -> HostStatus:
    return service.connect().ask(AskStatus(), HostStatus)


def test_requests_that_wait_share_one_quote_and_one_commit(service: RunningService) -> None:
    # Given ten vTPMs, half about to commit and half about to ask for a deep quote, while the
    # pTPM is busy with another's
    builder = service.connect()
    vtpms = [service.prepared_vtpm(builder, f"web-{number}")[0] for number in range(11)]
    first, *others = vtpms
    keep_busy(service, first)
    commits, extends = service.host.store.commits, service.ptpm.extends
    for vtpm in others[:5]:
        vtpm.send(AskDeepQuote(vtpm_quote_digest=bytes(32)))
    for vtpm in others[5:]:
        vtpm.send(CommitState(version=1, digest=bytes(32)))
    # When the pTPM is free again
    service.ptpm.may_quote.set()
    answers = service.quotes(others[:5])
    committed = [vtpm.receive()[0] for vtpm in others[5:]]
    # Then those who waited share one tree, one commit and one extend
    assert {answer.tree_size for answer in answers} == {5}
    assert committed == [StateCommitted(version=1)] * 5
    assert service.ptpm.quotes == 2
    assert (service.host.store.commits - commits, service.ptpm.extends - extends) == (1, 1)


def test_a_guest_that_floods_has_one_place_in_a_batch(service: RunningService) -> None:
    # Given a guest that asks ten times without reading an answer, and three that ask once
    builder = service.connect()
    vtpms = [service.prepared_vtpm(builder, f"web-{number}")[0] for number in range(5)]
    first, flooding, *others = vtpms
    keep_busy(service, first)
    for _ in range(10):
        flooding.send(AskDeepQuote(vtpm_quote_digest=bytes(32)))
    for vtpm in others:
        vtpm.send(AskDeepQuote(vtpm_quote_digest=bytes(32)))
    # When the pTPM is free again
    service.ptpm.may_quote.set()
    # Then the batch has one place for each of them, and the flood goes on after it
    assert [answer.tree_size for answer in service.quotes([flooding, *others])] == [4] * 4
    assert [each.tree_size for each in service.quotes([flooding] * 9)] == [1] * 9


def test_a_vtpm_that_leaves_ends_its_pair(service: RunningService) -> None:
    # Given a pair
    builder = service.connect()
    _, vtpm = service.open_pair(builder, open_pair())
    # When its vTPM's process ends
    vtpm.close()
    # Then the vTPM may be launched anew, at once
    opened, _ = service.open_pair(builder, open_pair())
    assert opened.launch_number == 2


def test_a_pair_that_is_closed_answers_nothing_more(service: RunningService) -> None:
    # Given a pair
    builder = service.connect()
    opened, vtpm = service.open_pair(builder, open_pair())
    # When the builder closes it, and once more
    for _ in range(2):
        builder.ask(ClosePair(pair_id=opened.pair_id), PairClosed)
    # Then its vTPM's channel is at its end
    with pytest.raises(Closed):
        vtpm.ask(Hello(), Welcome)


@pytest.mark.parametrize("message", [b"", b"\xff" * 10, b"\xa1\x65Hello\x80", bytes(5000)])
def test_a_hostile_vtpm_loses_its_channel_and_hurts_nobody(
    service: RunningService, message: bytes
) -> None:
    # Given two vTPMs
    builder = service.connect()
    _, hostile = service.open_pair(builder, open_pair("hostile"))
    _, other = service.open_pair(builder, open_pair("other"))
    # When one sends what is no message
    hostile.sock.send(message)
    # Then it is told at most once and closed, and the other is served
    with pytest.raises((Closed, TandemError)):  # noqa: PT012 - both happen, in this order
        hostile.ask(Hello(), Welcome)
        hostile.ask(Hello(), Welcome)
    assert other.ask(Hello(), Welcome).vtpm == "other"
    assert status(service).open_pairs == 1


def test_a_vtpm_cannot_ask_what_the_builder_may(service: RunningService) -> None:
    # Given a vTPM
    builder = service.connect()
    _, vtpm = service.open_pair(builder, open_pair())
    # When it asks over its channel for another pair
    stranger = Channel(vtpm.sock, sends=BUILDER_REQUESTS, receives=vtpm._receives)
    # Then that message does not exist there
    with pytest.raises(TandemError) as raised:
        stranger.ask(open_pair("other"), Welcome)
    assert raised.value.code == "TDM-MESSAGE-UNKNOWN"


def test_descriptors_sent_along_are_refused(service: RunningService) -> None:
    # Given a vTPM
    builder = service.connect()
    _, vtpm = service.open_pair(builder, open_pair())
    # When descriptors come with its message
    # Then it is refused
    with pytest.raises(TandemError) as raised:
        vtpm.ask(Hello(), Welcome, [0, 1, 2])
    assert raised.value.code == "TDM-MESSAGE-DESCRIPTORS"


def test_who_reads_no_answers_is_dropped_and_holds_nobody_up(service: RunningService) -> None:
    # Given a connection that asks and never reads
    deaf = service.connect()
    deaf.sock.settimeout(None)
    deaf.sock.setblocking(True)

    def ask_for_ever() -> None:
        try:
            while True:
                deaf.send(AskStatus())
        except (Closed, OSError):
            return

    asking = threading.Thread(target=ask_for_ever, daemon=True)
    # When its answers have filled the socket
    asking.start()
    asking.join(20)
    # Then it was dropped, and others are served
    assert not asking.is_alive()
    assert status(service).open_pairs == 0


def test_an_answer_for_who_was_closed_in_the_same_turn_is_no_error(
    service: RunningService,
) -> None:
    # Given a vTPM that commits and a builder that closes its pair, both while the Manager is busy
    builder = service.connect()
    other, _ = service.prepared_vtpm(builder, "other")
    opened, vtpm = service.open_pair(builder, open_pair("web"))
    vtpm.ask(Hello(), Welcome)
    keep_busy(service, other)
    vtpm.send(CommitState(version=1, digest=bytes(32)))
    builder.send(ClosePair(pair_id=opened.pair_id))
    # When both are handled in one turn
    service.ptpm.may_quote.set()
    # Then the builder is answered and the Manager goes on
    assert builder.receive()[0] == PairClosed()
    assert status(service).open_pairs == 1


def test_a_full_disk_ends_the_pairs_that_needed_it_and_no_other(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two vTPMs, and a disk that fills
    builder = service.connect()
    serving, _ = service.prepared_vtpm(builder, "serving")
    changing, _ = service.prepared_vtpm(builder, "changing")
    store = service.host.store

    def no_room(*, anchor: bool) -> None:
        store._staged.clear()
        raise NotWritten("TDM-STORE-NOT-WRITTEN", "the disk is full", hint="make room")

    with monkeypatch.context() as patched:
        patched.setattr(store, "commit", no_room)
        # When one changes its state and a new pair is opened
        with pytest.raises(HostError) as raised:
            changing.ask(CommitState(version=1, digest=bytes(32)), StateCommitted)
        with pytest.raises(HostError) as refused:
            builder.ask(open_pair("new"), PairOpened)
    # Then both are told, and nothing half-made is left
    assert {raised.value.code, refused.value.code} == {"TDM-STORE-NOT-WRITTEN"}
    with pytest.raises(Closed):
        changing.receive()
    assert status(service).open_pairs == 1
    # And the other vTPM is served, and once there is room, so is the new one
    assert serving.ask(AskDeepQuote(vtpm_quote_digest=bytes(32)), DeepQuoted).tree_size == 1
    opened, _ = service.open_pair(builder, open_pair("new"))
    assert opened.launch_number == 1


def test_a_ptpm_that_fails_a_quote_fails_those_who_asked(service: RunningService) -> None:
    # Given a pTPM that cannot quote now
    vtpm, _ = service.prepared_vtpm(service.connect(), "web")
    service.ptpm.failure = HostError("TDM-PTPM-FAILED", "no", hint="wait")
    # When a deep quote is asked for
    with pytest.raises(HostError) as raised:
        vtpm.ask(AskDeepQuote(vtpm_quote_digest=bytes(32)), DeepQuoted)
    # Then that is what it hears, and the next one succeeds
    assert raised.value.code == "TDM-PTPM-FAILED"
    service.ptpm.failure = None
    assert vtpm.ask(AskDeepQuote(vtpm_quote_digest=bytes(32)), DeepQuoted).tree_size == 1


def test_a_connection_too_many_is_refused_by_name(service: RunningService) -> None:
    # Given a Manager that holds as many connections as it may
    held = [service.connect() for _ in range(3)]
    assert [each.ask(AskStatus(), HostStatus).open_pairs for each in held] == [0, 0, 0]
    service.service.clients.most = 3
    # When another comes
    with pytest.raises(HostError) as raised:
        status(service)
    # Then it is refused, and those that are there are served
    assert raised.value.code == "TDM-MANAGER-FULL"
    assert held[0].ask(AskStatus(), HostStatus).open_pairs == 0


def test_no_secret_is_logged(service: RunningService) -> None:
    # Given a vTPM that was given its key and then misbehaves
    builder = service.connect()
    _, vtpm = service.open_pair(builder, open_pair())
    key = vtpm.ask(Hello(), Welcome).key
    with pytest.raises(TandemError):
        vtpm.ask(Hello(), Welcome)
    # When the log is read
    printed = service.printed.getvalue()
    # Then both are in it, and the key is not
    assert "pair.opened" in printed
    assert "client.hostile" in printed
    assert key.hex() not in printed


def test_a_challenge_that_the_ptpm_refuses_is_answered(service: RunningService) -> None:
    # Given a pTPM that fails
    service.ptpm.failure = HostError("TDM-PTPM-FAILED", "no", hint="none")
    # When a challenge comes
    with pytest.raises(HostError) as raised:
        service.connect().ask(Activate(credential_blob=b"b", encrypted_secret=b"s"), Activated)
    # Then the answer says why
    assert raised.value.code == "TDM-PTPM-FAILED"


def test_a_connection_that_says_nothing_is_left_alone(service: RunningService) -> None:
    # Given a connection that is silent
    silent = service.connect()
    # When others ask
    assert status(service).open_pairs == 0
    # Then it is answered when it does
    assert silent.ask(AskStatus(), HostStatus).open_pairs == 0
