"""Whatever a console says, in whatever pieces it comes, the ledger reads it, and the same way."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kills.ledger import Account, Console, Ledger
from kills.rules import Violation

NUMBERS = st.integers(0, 5).map(str)
WORDS = st.sampled_from(["PCR", "NV", "ACK", "ERR", "END", "none", "write", "10", "00" * 32])
LINES = st.lists(WORDS | NUMBERS, max_size=4).map(lambda words: " ".join(words).encode() + b"\n")
OUTPUT = st.lists(LINES | st.binary(max_size=20), max_size=12).map(b"".join)


def taken(pieces: list[bytes], *, keeps: bool) -> tuple[Ledger, list[Violation]]:
    ledger = Ledger(accounts={"web": Account(keeps=keeps)})
    console = Console(guest="web", pid=1)
    return ledger, [found for piece in pieces for found in ledger.take(console, piece, 1.0)]


@given(output=OUTPUT, cuts=st.lists(st.integers(0, 400), max_size=6), keeps=st.booleans())
def test_pieces_are_read_as_the_whole_is(output: bytes, cuts: list[int], keeps: bool) -> None:
    # Given what a console said, cut anywhere
    edges = [0, *sorted(min(cut, len(output)) for cut in cuts), len(output)]
    pieces = [output[start:end] for start, end in pairwise(edges)]
    # When it is read at once, and in pieces
    # Then nothing raises, and both are the same
    assert taken(pieces, keeps=keeps) == taken([output], keeps=keeps)


@given(output=OUTPUT)
def test_what_is_durable_never_becomes_less(output: bytes) -> None:
    # Given a persistent vTPM's console
    ledger = Ledger(accounts={"web": Account(keeps=True)})
    console, before = Console(guest="web", pid=1), 0
    # When it is read byte by byte
    for at in range(len(output)):
        list(ledger.take(console, output[at : at + 1], 1.0))
        # Then the newest number that must be kept only grows
        assert ledger.accounts["web"].durable >= before
        before = ledger.accounts["web"].durable
