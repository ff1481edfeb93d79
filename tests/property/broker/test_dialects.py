"""Reading what clients send is total, and does not depend on how it was cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.broker.dialects import Dialect, Mssim, MssimPlatform, Raw, SwtpmControl, TpmCommand
from tandem.errors import UntrustedInput


def _command(body: bytes) -> bytes:
    return b"\x80\x01" + (10 + len(body)).to_bytes(4) + b"\x00\x00\x01\x7b" + body


DIALECTS: list[Dialect] = [Raw(), Mssim(), MssimPlatform(), SwtpmControl()]
COMMANDS = st.lists(st.binary(max_size=64).map(_command), max_size=5)


@given(dialect=st.sampled_from(DIALECTS), data=st.binary(max_size=200))
def test_any_bytes_are_a_request_or_more_is_due_or_they_are_refused(
    dialect: Dialect, data: bytes
) -> None:
    # Given any bytes
    # When they are read
    try:
        parsed = dialect.parse(data)
    except UntrustedInput:
        return  # Then they are refused,
    if parsed is not None:
        _, size = parsed
        assert 0 < size <= len(data)  # or are a request and something is taken; None waits for more


@given(commands=COMMANDS, cuts=st.lists(st.integers(min_value=1, max_value=40), min_size=1))
def test_commands_arrive_whole_however_they_are_cut(commands: list[bytes], cuts: list[int]) -> None:
    # Given commands in a stream that is cut anywhere
    framings: list[tuple[Dialect, bytes]] = [
        (Raw(), b"".join(commands)),
        (Mssim(), b"".join(_sent(each) for each in commands)),
    ]
    for dialect, stream in framings:
        # When the pieces are read as they come
        found: list[bytes] = []
        unread = b""
        for piece in _pieces(stream, cuts):
            unread += piece
            while (parsed := dialect.parse(unread)) is not None:
                request, size = parsed
                assert isinstance(request, TpmCommand)
                found.append(request.data)
                unread = unread[size:]

        # Then each command comes out once, in its order, and nothing is left
        assert found == commands
        assert unread == b""


def _sent(command: bytes) -> bytes:
    return (8).to_bytes(4) + b"\0" + len(command).to_bytes(4) + command


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    at = 0
    while at < len(stream):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(stream[at : at + size])
        at += size
    return pieces
