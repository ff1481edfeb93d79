"""Whatever clients send, and however they leave, the loop goes on and others are served."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.broker.dialects import Dialect, Mssim, MssimPlatform, Raw, SwtpmControl
from tests.unit.broker.serving import ANSWER, GET_RANDOM, Serving

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.just(GET_RANDOM),
        st.integers(min_value=0, max_value=len(GET_RANDOM)).map(lambda end: GET_RANDOM[:end]),
        st.just((8).to_bytes(4) + b"\0" + len(GET_RANDOM).to_bytes(4) + GET_RANDOM),
        st.binary(min_size=5000, max_size=20000),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(
    pieces=PIECES,
    dialect=st.sampled_from([Raw(), Mssim(), MssimPlatform(), SwtpmControl()]),
    leaves=st.booleans(),
)
def test_a_hostile_stream_holds_up_nobody(
    pieces: list[bytes], dialect: Dialect, leaves: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        # Given a server
        serving = Serving(Path(directory), dialect)
        try:
            hostile = serving.client()
            hostile.setblocking(False)

            # When a client sends anything, and stays or leaves without reading an answer
            for piece in pieces:
                with contextlib.suppress(OSError):
                    hostile.sendall(piece)
                serving.turns(1)
            if leaves:
                hostile.close()
            serving.turns(4)

            # Then another is served
            if isinstance(dialect, Raw):
                assert served(serving)
        finally:
            serving.close()


def served(serving: Serving) -> bool:
    client: socket.socket = serving.client()
    client.sendall(GET_RANDOM)
    serving.turns(8)
    return client.recv(4096) == ANSWER
