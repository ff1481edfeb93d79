"""Control answers have the size that a hypervisor waits for."""

from __future__ import annotations

import pytest

from tandem.errors import UntrustedInput
from tandem.wire.control import Command, Result, encode_refusal, encode_result, parse_request


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (Command.GET_CAPABILITY, 8),
        (Command.GET_TPMESTABLISHED, 8),
        (Command.GET_STATEBLOB, 16),
        (Command.SET_BUFFERSIZE, 16),
        (Command.INIT, 4),
    ],
)
def test_a_refusal_is_as_long_as_the_answer_that_is_waited_for(command: Command, size: int) -> None:
    # Given a command and the size of its answer in tpm_ioctl.h
    # When it is refused
    refusal = encode_refusal(command, Result.BAD_ORDINAL)

    # Then the code comes first and the rest is padding
    assert refusal == (10).to_bytes(4) + bytes(size - 4)


def test_an_unknown_command_is_refused_by_name() -> None:
    # Given a command number that tpm_ioctl.h does not have
    # When it is read
    with pytest.raises(UntrustedInput) as refusal:
        parse_request(bytes.fromhex("000000ff"))

    # Then the refusal has its code
    assert refusal.value.code == "TDM-CONTROL-UNKNOWN-COMMAND"


def test_a_result_is_the_code_and_what_follows() -> None:
    # Given a result and its payload
    # When they are written
    # Then both are big-endian, the code first
    assert encode_result(0, b"\x01") == b"\x00\x00\x00\x00\x01"
