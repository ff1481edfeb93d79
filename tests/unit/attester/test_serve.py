"""A line in, a line out, for ever; a broken line ends nothing."""

from __future__ import annotations

import json

import pytest

from tandem.attester.failure import AttesterError
from tandem.attester.request import Request
from tandem.attester.serve import LineReader, answer, serve

ASK = b'{"nonce": "%s"}\n' % (b"00" * 32)


class Ended(Exception):
    """The scripted host has nothing more to say."""


class Host:
    """A host that sends these pieces; an empty one is a disconnection."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.received: list[bytes] = []

    def receive(self) -> bytes:
        if not self.pieces:
            raise Ended
        return self.pieces.pop(0)

    def send(self, data: bytes) -> None:
        self.received.append(data)


def evidence(request: Request) -> dict[str, str]:
    return {"answer": request.nonce.hex()}


def test_each_line_is_answered_by_one_line() -> None:
    # Given a host that asks twice, with a broken line and an empty one between
    host = Host(b"\n" + ASK + b"nonsense\n\n", ASK[:10], ASK[10:])

    # When the attester serves it
    with pytest.raises(Ended):
        serve(host, evidence)

    # Then there are two pieces of evidence with one error between, each on one line
    answers = [json.loads(line) for line in host.received]
    assert [sorted(each) for each in answers] == [["answer"], ["error"], ["answer"]]
    assert all(line.count(b"\n") == 1 for line in host.received)


def test_half_a_line_goes_with_the_host_that_sent_it() -> None:
    # Given a host that leaves in the middle of a line, and another that comes
    host = Host(b'{"nonce": "ff', b"", ASK)

    # When the attester serves both
    with pytest.raises(Ended):
        serve(host, evidence)

    # Then only the second gets an answer, to its own line
    assert [json.loads(line) for line in host.received] == [{"answer": "00" * 32}]


def test_an_endless_line_takes_no_more_memory() -> None:
    # Given a line reader
    lines = LineReader()

    # When a host sends a megabyte without an end
    for _ in range(256):
        assert list(lines.feed(b"x" * 4096)) == []

    # Then the line that ends at last is short, and too long to be a request
    [line] = lines.feed(b"\n")
    assert 1024 < len(line) < 8192
    assert b"TDM-ATTESTER-BAD-REQUEST" in answer(line, evidence)


def test_a_failure_of_the_tpm_is_the_answer() -> None:
    # Given a TPM that fails
    def fail(request: Request) -> dict[str, str]:
        raise AttesterError("TDM-ATTESTER-TPM-DEVICE", "it failed", hint="repair it")

    # When a request is answered
    record = json.loads(answer(ASK.strip(), fail))

    # Then the answer says what is wrong and what to do
    assert record == {
        "error": {"code": "TDM-ATTESTER-TPM-DEVICE", "problem": "it failed", "hint": "repair it"}
    }
