"""Whatever anybody sends in whatever order, the Manager serves the next one that asks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.channel import Channel, Closed
from tandem.errors import TandemError
from tandem.wire.manager_rpc import (
    VTPM_REQUESTS,
    AskDeepQuote,
    AskStatus,
    CertifyEks,
    CommitState,
    Hello,
    HostStatus,
    Prepare,
)
from tandem.wire.messages import Message
from tests.unit.manager.running_service import RunningService
from tests.unit.manager.software_host import ak, ecc_ek, open_pair, rsa_ek

RSA, ECC, AK = rsa_ek(), ecc_ek(), ak()
KEYS = st.one_of(st.sampled_from([RSA, ECC, AK, b""]), st.binary(max_size=400))
NUMBERS = st.integers(0, (1 << 64) - 1) | st.integers(0, 3)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.just(Hello()),
    st.builds(CertifyEks, rsa=KEYS, ecc=KEYS),
    st.builds(Prepare, ek=KEYS, ak=KEYS, reset_count=NUMBERS, restart_count=NUMBERS),
    st.builds(CommitState, version=NUMBERS, digest=st.binary(min_size=30, max_size=33)),
    st.builds(AskDeepQuote, vtpm_quote_digest=st.binary(min_size=31, max_size=33)),
)
Send = Callable[[Channel], None]
SENDS: st.SearchStrategy[bytes | Message] = MESSAGES | st.binary(max_size=4200)
NORMAL = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with tempfile.TemporaryDirectory(prefix="tandem-manager-") as directory:
        running = RunningService(Path(directory))
        yield running
        running.close()


def send(channel: Channel, what: bytes | Message) -> None:
    """Send a message of the protocol, or bytes; then read the answer, or find the end."""
    data = what if isinstance(what, bytes) else VTPM_REQUESTS.encode(what)
    channel.sock.send(data)
    if data:
        channel.receive()


@NORMAL
@given(script=st.lists(SENDS, max_size=8))
def test_a_vtpm_says_anything(service: RunningService, script: list[bytes | Message]) -> None:
    # Given a vTPM
    builder = service.connect()
    _, vtpm = service.open_pair(builder, open_pair("web", ephemeral=True))
    # When it sends messages and bytes, until it is closed
    with suppress(Closed, TandemError, OSError):
        for what in script:
            send(vtpm, what)
    vtpm.close()
    # Then the Manager is there for the next one, and the pair is not
    status = builder.ask(AskStatus(), HostStatus)
    assert status.open_pairs == 0
    builder.close()


@NORMAL
@given(data=st.binary(max_size=5000))
def test_a_connection_says_anything(service: RunningService, data: bytes) -> None:
    # Given a connection of root's
    client = service.connect()
    # When it sends anything
    with suppress(Closed, TandemError, OSError):
        client.sock.send(data)
        client.receive() if data else None
    client.close()
    # Then the Manager is there for the next one
    other = service.connect()
    assert other.ask(AskStatus(), HostStatus).open_pairs == 0
    other.close()
