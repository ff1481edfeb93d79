"""Messages carry exactly their fields, and an error crosses a process border unchanged."""

from __future__ import annotations

import pytest

from tandem.errors import HostError, Refused, TandemError, UntrustedInput, UsageError
from tandem.evidence import canonical
from tandem.wire.manager_rpc import (
    BUILDER_REQUESTS,
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    CommitState,
    DeepQuoted,
    ExportPage,
    Hello,
)
from tandem.wire.messages import failure


def test_a_message_is_these_bytes() -> None:
    # Given a message, and its canonical CBOR written by hand
    # ({"CommitState": {"digest": h'aa', "version": 7}}, RFC 8949 section 4.2.1)
    message = CommitState(version=7, digest=b"\xaa")
    by_hand = bytes.fromhex("a16b436f6d6d69745374617465a26664696765737441aa6776657273696f6e07")

    # When it is written and read
    # Then both directions agree with the bytes
    assert VTPM_REQUESTS.encode(message) == by_hand
    assert VTPM_REQUESTS.decode(by_hand) == message


@pytest.mark.parametrize(
    "error",
    [
        UsageError("TDM-A", "a", hint="h"),
        HostError("TDM-B", "b", hint="h"),
        Refused("TDM-C", "c", hint="h"),
        UntrustedInput("TDM-D", "d", hint="h", offset=3),
    ],
)
def test_an_error_keeps_family_code_and_hint_across_the_border(error: TandemError) -> None:
    # Given an error in one process
    # When it is sent as the answer and raised again
    received = VTPM_ANSWERS.decode(VTPM_ANSWERS.encode(failure(error)))
    raised = received.as_error()  # type: ignore[attr-defined]

    # Then it is the same error
    assert type(raised) is type(error)
    assert (raised.code, raised.problem, raised.hint) == (error.code, error.problem, error.hint)


@pytest.mark.parametrize(
    "wrong",
    [
        {"Hello": {"extra": 1}},
        {"CommitState": {"version": 7}},
        {"CommitState": {"version": "7", "digest": b""}},
        {"CommitState": {"version": True, "digest": b""}},
        {"CommitState": {"version": -1, "digest": b""}},
        {"CommitState": {"version": 1 << 64, "digest": b""}},
        {"Hello": {}, "Prepare": {}},
        {"OpenPair": {}},
        {"Hello": []},
        {},
    ],
)
def test_a_message_of_another_shape_is_refused(wrong: dict[str, object]) -> None:
    # Given well-formed CBOR that is no message of this protocol
    # When it is read
    # Then it is refused as untrusted input
    with pytest.raises(UntrustedInput):
        VTPM_REQUESTS.decode(canonical.encode(wrong))


def test_each_socket_has_its_own_vocabulary() -> None:
    # Given a message of the vTPM's protocol
    sent = VTPM_REQUESTS.encode(Hello())

    # When it arrives on the builder's socket
    with pytest.raises(UntrustedInput) as refusal:
        BUILDER_REQUESTS.decode(sent)

    # Then it is unknown there
    assert refusal.value.code == "TDM-MESSAGE-UNKNOWN"


def test_a_message_over_the_limit_is_not_sent() -> None:
    # Given an answer whose path does not fit a Xen ring page
    answer = DeepQuoted(
        salt=b"", leaf_index=0, tree_size=1, path=(b"x" * 32,) * 130, attest=b"", signature=b"",
        pcrs={},
    )  # fmt: skip

    # When it is to be sent
    with pytest.raises(HostError) as refusal:
        VTPM_ANSWERS.encode(answer)

    # Then it is refused on the sender's side
    assert refusal.value.code == "TDM-MESSAGE-TOO-LONG"


def test_a_message_of_another_protocol_is_a_programming_error() -> None:
    # Given an answer of the builder's protocol
    # When it is sent to a vTPM
    # Then that is a defect here, not input
    with pytest.raises(TypeError):
        VTPM_ANSWERS.encode(ExportPage(total=0, data=b""))
