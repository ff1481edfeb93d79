"""Whatever a TPM answers, in whatever parts: a whole response, or a named failure for good."""

from __future__ import annotations

import contextlib
import socket
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.manager.tcti import HEADER_SIZE, RESPONSE_SIZE, DescriptorTcti, PtpmFailed

COMMAND = bytes.fromhex("80010000000c0000017b0008")
HEADERS = st.builds(
    lambda tag, size, code: tag.to_bytes(2) + size.to_bytes(4) + code.to_bytes(4),
    st.sampled_from([0x8001, 0x8002, 0x00C4, 0xFFFF]),
    st.sampled_from([0, 9, 10, 12, 20, RESPONSE_SIZE, RESPONSE_SIZE + 1, 0xFFFFFFFF]),
    st.sampled_from([0, 0x100, 0x101, 0x921, 0x9A2]),
)
ANSWERS = st.binary(max_size=40) | st.tuples(HEADERS, st.binary(max_size=20)).map(b"".join)


@given(ANSWERS, st.lists(st.integers(0, 60), max_size=4))
def test_any_answer_is_a_whole_response_or_ends_the_connection_by_name(
    answer: bytes, cuts: list[int]
) -> None:
    # Given a TPM that answers anything, in any parts, and then hangs up
    ours, theirs = socket.socketpair()
    borders = sorted({0, *(cut for cut in cuts if cut < len(answer))})

    def serve() -> None:
        with theirs:
            theirs.recv(RESPONSE_SIZE)
            for begin, end in pairwise([*borders, len(answer)]):
                theirs.sendall(answer[begin:end])

    thread = threading.Thread(target=serve)
    thread.start()
    way = DescriptorTcti(ours.fileno(), answer_seconds=5)
    # When a command is sent
    with contextlib.suppress(PtpmFailed):
        response = way.transceive(COMMAND)
        # Then its response has the length that it says, no more and no less
        assert len(response) >= HEADER_SIZE
        assert int.from_bytes(response[2:6]) == len(response)
        assert answer.startswith(response)
    # And after a failure, or an answer to what nobody asked, every later command fails by name
    thread.join()
    with pytest.raises(PtpmFailed, match=r"TDM-PTPM-"):
        way.transceive(COMMAND)
    ours.close()
