"""Whatever comes over key channels, in whatever order: one pair ends, and the Manager serves on."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.channel import Channel, Closed
from tandem.wire.manager_rpc import (
    BUILDER_REQUESTS,
    VTPM_REQUESTS,
    AskDeepQuote,
    AskStatus,
    CertifyEks,
    ClosePair,
    CommitState,
    DeepQuoted,
    Hello,
    HostStatus,
    PairClosed,
    Prepare,
    RenewAk,
)
from tests.unit.manager.running_service import RunningService
from tests.unit.manager.software_host import ak, ecc_ek, open_pair, rsa_ek

RSA_EK, ECC_EK, AK = rsa_ek(), ecc_ek(), ak()
VTPMS = 3
ASK = AskDeepQuote(vtpm_quote_digest=b"q" * 32)
NUMBERS = itertools.count()  # no two examples have a vTPM in common


@dataclass(frozen=True)
class Sent:
    """Bytes over a key channel, and how many descriptors with them."""

    data: bytes
    descriptors: int = 0


class End(Enum):
    """How else a vTPM's launch ends."""

    LEAVE = auto()
    CLOSED_BY_BUILDER = auto()


HONEST = [
    Sent(VTPM_REQUESTS.encode(message))
    for message in (
        Hello(),
        CertifyEks(rsa=RSA_EK, ecc=ECC_EK),
        Prepare(ek=RSA_EK, ak=AK, reset_count=1, restart_count=0),
        CommitState(version=1, digest=b"1" * 32),
        CommitState(version=2, digest=b"2" * 32),
        RenewAk(),
        ASK,
    )
]
KEYS = st.sampled_from([RSA_EK, ECC_EK, AK]) | st.binary(max_size=400)
SIZES = st.integers(0, (1 << 64) - 1)
DIGESTS = st.just(b"d" * 32) | st.binary(max_size=64)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Give a structure with one byte changed."""
    places = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))
    return places.map(lambda at: whole[: at[0]] + bytes([at[1]]) + whole[at[0] + 1 :])


ODD = (
    st.builds(CertifyEks, rsa=KEYS | damaged(RSA_EK), ecc=KEYS | damaged(ECC_EK))
    | st.builds(Prepare, ek=KEYS, ak=KEYS | damaged(AK), reset_count=SIZES, restart_count=SIZES)
    | st.builds(CommitState, version=SIZES, digest=DIGESTS)
    | st.builds(AskDeepQuote, vtpm_quote_digest=DIGESTS)
).map(lambda message: Sent(VTPM_REQUESTS.encode(message)))
FOREIGN = st.sampled_from([
    Sent(BUILDER_REQUESTS.encode(message))
    for message in (ClosePair(pair_id=bytes(16)), AskStatus(), open_pair("stolen"))
])  # fmt: skip
NOISE = st.builds(Sent, st.binary(max_size=5000), st.integers(0, 16))
SURPLUS = st.builds(lambda sent: Sent(sent.data, 1), st.sampled_from(HONEST))
ENDS = st.sampled_from(End)
ACTS: st.SearchStrategy[Sent | End] = (
    st.sampled_from(HONEST) | ODD | FOREIGN | NOISE | SURPLUS | ENDS
)
STORIES = st.lists(st.tuples(st.integers(0, VTPMS - 1), ACTS), max_size=12)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    running = RunningService(tmp_path_factory.mktemp("host"))
    yield running
    running.close()


def tell(vtpm: Channel, sent: Sent) -> None:
    """Send something and read the answer, where the Manager still has one for this vTPM."""
    descriptors = [0] * sent.descriptors
    try:
        socket.send_fds(vtpm.sock, [sent.data], descriptors)
        if sent.data:
            vtpm.receive()
    except (Closed, OSError):
        return


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES)
def test_hostile_vtpms_end_themselves_alone(
    service: RunningService, story: list[tuple[int, Sent | End]]
) -> None:
    # Given an honest vTPM, and some that say anything
    number = next(NUMBERS)
    builder = service.connect()
    witness, _ = service.prepared_vtpm(builder, f"witness-{number}")
    others = [
        service.open_pair(builder, open_pair(f"odd-{number}-{each}", ephemeral=each == 0))
        for each in range(VTPMS)
    ]
    # When they do
    for at, act in story:
        opened, vtpm = others[at]
        match act:
            case End.LEAVE:
                vtpm.close()
            case End.CLOSED_BY_BUILDER:
                builder.ask(ClosePair(pair_id=opened.pair_id), PairClosed)
            case Sent() as sent:
                tell(vtpm, sent)
    # Then builder and honest vTPM are served as before, and what is left ends when it is told to
    assert witness.ask(ASK, DeepQuoted).path == ()
    for opened, vtpm in others:
        builder.ask(ClosePair(pair_id=opened.pair_id), PairClosed)
        vtpm.close()
    assert builder.ask(AskStatus(), HostStatus).open_pairs == 1
    witness.close()
    builder.close()


def test_no_descriptor_is_lost_to_hostile_messages(service: RunningService) -> None:
    # Given a Manager that was sent descriptors by many
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    builder = service.connect()
    before = open_descriptors()
    # When more vTPMs send some with noise, and end
    for each in range(50):
        _, vtpm = service.open_pair(builder, open_pair(f"leak-{each}", ephemeral=True))
        tell(vtpm, Sent(b"noise", 16))
        vtpm.close()
    builder.ask(AskStatus(), HostStatus)
    # Then none of the 800 is left open; the last connection may be on its way to its end
    assert open_descriptors() <= before + 2
