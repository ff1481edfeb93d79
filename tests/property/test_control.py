"""Control-channel requests survive any splitting, and no bytes at all break the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import UntrustedInput
from tandem.wire.control import (
    BODIES,
    DATA_LIMITS,
    EMPTY_BODY,
    HEADER,
    MAX_STATE_BLOB,
    Command,
    NeedMore,
    Request,
    parse_request,
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request a well-behaved hypervisor can send, its data kept short."""
    command = draw(st.sampled_from(Command))
    body = BODIES.get(command, EMPTY_BODY)
    values = draw(st.binary(min_size=body.size, max_size=body.size))
    fields: tuple[int, ...] = body.unpack(values)
    if command not in DATA_LIMITS:
        return Request(command=command, fields=fields)
    data = draw(st.binary(max_size=64))
    return Request(command=command, fields=(*fields[:-1], len(data)), data=data)


@given(sent=st.lists(requests(), min_size=1, max_size=5), cut=st.integers(min_value=0))
def test_requests_arrive_whole_however_the_socket_splits_them(
    sent: list[Request], cut: int
) -> None:
    # Given several requests as one stream, of which only a first part has arrived
    stream = b"".join(request.encode() for request in sent)
    arrived = stream[: cut % len(stream)]

    # When the reader takes all it can, and then the rest arrives
    received, rest = take_all(arrived)
    more, rest = take_all(rest + stream[len(arrived) :])

    # Then the same requests come out in the same order and no byte is left over
    assert received + more == sent
    assert rest == b""


@given(noise=st.binary(max_size=256))
def test_any_bytes_at_all_are_a_request_a_wait_or_a_refusal(noise: bytes) -> None:
    # Given any bytes at all

    # When they are read as a request
    outcome = attempt(noise)

    # Then a request stands for exactly the bytes it took, a wait is for something, and a
    # refusal points inside what was sent
    match outcome:
        case (request, used):
            assert request.encode() == noise[:used]
        case NeedMore(missing=missing):
            assert missing > 0
        case UntrustedInput(offset=offset):
            assert 0 <= offset < len(noise)


@pytest.mark.parametrize(
    ("wire", "fields"),
    [
        ("00000002 00000001", (1,)),
        ("00000005 03000000", (3, 0, 0, 0)),
        ("0000000c 00000000 00000002 00000010", (0, 2, 16)),
        ("00000012 0000000000000040 00000000 00000000", (64, 0, 0)),
    ],
)
def test_known_bytes_read_as_tpm_ioctl_h_lays_them_out(wire: str, fields: tuple[int, ...]) -> None:
    # Given bytes written by hand from the header file; a round trip alone cannot see a wrong layout
    sent = bytes.fromhex(wire)

    # When they are read
    outcome = attempt(sent)

    # Then all of them are used and each field has its place
    assert outcome == (Request(command=Command(sent[3]), fields=fields), len(sent))


def test_a_state_blob_over_the_bound_is_refused_before_it_is_received() -> None:
    # Given a header announcing one byte more than a state blob may have
    body = BODIES[Command.SET_STATEBLOB].pack(0, 1, MAX_STATE_BLOB + 1)
    header = HEADER.pack(Command.SET_STATEBLOB) + body

    # When only that header has arrived
    with pytest.raises(UntrustedInput) as refusal:
        parse_request(header)

    # Then it is refused at the length field, without waiting for the data
    assert refusal.value.code == "TDM-CONTROL-DATA-TOO-LONG"
    assert refusal.value.offset == header.rindex((MAX_STATE_BLOB + 1).to_bytes(4, "big"))


def attempt(buffer: bytes) -> tuple[Request, int] | NeedMore | UntrustedInput:
    """Read one request; hand a refusal back instead of raising it."""
    try:
        return parse_request(buffer)
    except UntrustedInput as refusal:
        return refusal


def take_all(buffer: bytes) -> tuple[list[Request], bytes]:
    """Read requests off the front of `buffer` until it runs out; give the rest back."""
    taken: list[Request] = []
    while not isinstance(result := parse_request(buffer), NeedMore):
        request, used = result
        taken.append(request)
        buffer = buffer[used:]
    return taken, buffer
