"""Other users of the host at the Manager's socket: what they may ask, and what they cost others."""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tandem.channel import Channel, Closed
from tandem.errors import TandemError
from tandem.manager.clients import USER_MOST
from tandem.settings import BROKER_UID
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    Activate,
    Activated,
    AskDeepQuote,
    AskExport,
    AskMetrics,
    AskStatus,
    ClosePair,
    DeepQuoted,
    ExportPage,
    HostStatus,
    MetricsPage,
    PairClosed,
    PairOpened,
)
from tandem.wire.messages import Message
from tests.integration.manager.running_manager import RunningManager, open_pair, ready

MONITOR, STRANGER = 61001, 61002
NOT_ALLOWED = "TDM-MANAGER-NOT-ALLOWED"
ROUNDS = 60

pytestmark = pytest.mark.skipif(not ready(), reason="needs root and swtpm-tools")


@pytest.fixture
def observed(stopped: RunningManager) -> RunningManager:
    """Give a running Manager whose table lets one user observe."""
    table = stopped.paths.clients_table
    table.write_text(f'[users]\n{MONITOR} = ["observe"]\n')
    table.chmod(0o644)
    stopped.start()
    return stopped


@contextmanager
def as_user(uid: int, act: Callable[[], int]) -> Iterator[int]:
    """Have a child process of that user do something; its result is its exit status."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            status = act()
        finally:
            os._exit(status)
    try:
        yield child
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def answer_for(manager: RunningManager, uid: int, asked: Message, answer: type) -> str:
    """Ask as a user; give the code of the refusal, or "" where there was an answer."""
    reading, writing = os.pipe()

    def ask() -> int:
        try:
            connect(manager).ask(asked, answer)
            os.write(writing, b"answered")
        except TandemError as error:
            os.write(writing, error.code.encode())
        except (Closed, OSError) as error:
            os.write(writing, type(error).__name__.encode())
        return 0

    with as_user(uid, ask):
        os.close(writing)
        with open(reading, "rb") as said:
            word = said.read().decode()
    return "" if word == "answered" else word


def connect(manager: RunningManager) -> Channel:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(manager.paths.manager_socket))
    return Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)


def test_a_user_may_ask_what_the_table_says_and_nothing_else(observed: RunningManager) -> None:
    # Given a user who may observe
    # When it asks for everything that there is
    # Then status, metrics and the host's public identity are answered
    assert answer_for(observed, MONITOR, AskStatus(), HostStatus) == ""
    assert answer_for(observed, MONITOR, AskMetrics(offset=0), MetricsPage) == ""
    assert answer_for(observed, MONITOR, AskExport(offset=0), ExportPage) == ""
    # And all else is refused
    assert answer_for(observed, MONITOR, open_pair("web"), PairOpened) == NOT_ALLOWED
    assert answer_for(observed, MONITOR, ClosePair(pair_id=bytes(16)), PairClosed) == NOT_ALLOWED
    activate = Activate(credential_blob=b"", encrypted_secret=b"")
    assert answer_for(observed, MONITOR, activate, Activated) == NOT_ALLOWED


def test_a_user_whom_the_table_does_not_name_may_ask_nothing(observed: RunningManager) -> None:
    # Given a table that names another user
    # When a stranger asks, or one who is the broker's user asks for more than its channel
    # Then both are refused, and root is not
    assert answer_for(observed, STRANGER, AskStatus(), HostStatus) == NOT_ALLOWED
    assert answer_for(observed, BROKER_UID, AskStatus(), HostStatus) == NOT_ALLOWED
    assert answer_for(observed, 0, AskStatus(), HostStatus) == ""


def test_without_a_table_the_socket_is_closed_to_others(manager: RunningManager) -> None:
    # Given a host without a table
    # When another user connects
    # Then the kernel refuses
    assert answer_for(manager, MONITOR, AskStatus(), HostStatus) == "PermissionError"


def test_a_user_holds_no_more_than_his_share_of_connections(observed: RunningManager) -> None:
    # Given a user who opens connections without end, and keeps them
    def hoard() -> int:
        kept: list[Channel] = []
        while len(kept) < 200:
            kept.append(connect(observed))
        time.sleep(60)
        return 0

    with as_user(MONITOR, hoard):
        time.sleep(1)
        # When root connects
        held = observed.status()
        # Then it is served at once, and the user has his share
        assert held.open_pairs == 0
        descriptors = len(os.listdir(f"/proc/{observed.pid}/fd"))
    assert descriptors < USER_MOST + 30


def test_a_flood_of_one_user_costs_others_next_to_nothing(observed: RunningManager) -> None:
    # Given a vTPM that has deep quotes made, and how long that takes on a quiet host
    vtpm = observed.vtpm("web")
    vtpm.prepare()

    def quote_time() -> float:
        started = time.monotonic()
        vtpm.channel.ask(AskDeepQuote(vtpm_quote_digest=bytes(32)), DeepQuoted)
        return time.monotonic() - started

    def median() -> float:
        return statistics.median(quote_time() for _ in range(ROUNDS))

    quiet = median()

    # When a user asks for the host's identity without end, over as many connections as he gets
    def flood() -> int:
        channels = [connect(observed) for _ in range(USER_MOST)]
        while True:
            for channel in channels:
                channel.send(AskExport(offset=0))
            for channel in channels:
                channel.receive()

    with as_user(MONITOR, flood):
        time.sleep(0.5)
        flooded = median()
    # Then a quote takes hardly longer (the machine is shared; tests/unit counts the requests)
    assert flooded < quiet + 0.01


def test_a_user_who_reads_no_answers_is_dropped(observed: RunningManager) -> None:
    # Given a user who asks and never reads
    reading, writing = os.pipe()

    def ask_on() -> int:
        channel = connect(observed)
        channel.sock.settimeout(30)
        try:
            while True:
                channel.send(AskExport(offset=0))
        except (Closed, OSError):
            os.write(writing, b"dropped")
        time.sleep(60)
        return 0

    with as_user(MONITOR, ask_on):
        # When his answers fill what the kernel keeps for him
        os.close(writing)
        with open(reading, "rb") as said:
            word = said.read(7)
        # Then he loses his connection, and the Manager serves on
        assert word == b"dropped"
        assert observed.status().open_pairs == 0
