"""How commands arrive: raw, mssim's and swtpm's framing, as libtss2 3.2.1 was seen to send them."""

from __future__ import annotations

import pytest

from tandem.broker.dialects import (
    MAX_COMMAND,
    Dialect,
    End,
    Mssim,
    MssimPlatform,
    Raw,
    Reply,
    SwtpmControl,
    TpmCommand,
)
from tandem.errors import UntrustedInput

GET_RANDOM = bytes.fromhex("80010000000c0000017b0004")
RESPONSE = bytes.fromhex("80010000000a00000000")
SEND = bytes.fromhex("00000008000000000c")  # TPM_SEND_COMMAND, locality 0, size


def test_raw_commands_are_taken_one_by_one() -> None:
    # Given two commands in one piece
    # When they are read
    # Then the first comes out with its size, and goes out as it is answered
    assert Raw().parse(2 * GET_RANDOM) == (TpmCommand(data=GET_RANDOM), len(GET_RANDOM))
    assert Raw().frame(RESPONSE) == RESPONSE


def test_mssim_frames_commands_and_responses() -> None:
    # Given a command as libtss2-tcti-mssim sends it
    # When it is read, and a response written
    # Then locality and size are gone from it, and the response has its size and a result
    parsed = Mssim().parse(SEND + GET_RANDOM)
    assert parsed == (TpmCommand(data=GET_RANDOM), len(SEND) + len(GET_RANDOM))
    assert Mssim().frame(RESPONSE) == bytes.fromhex("0000000a") + RESPONSE + bytes(4)


@pytest.mark.parametrize("number", [1, 9, 10, 11])
def test_what_a_platform_does_is_confirmed_and_has_no_effect(number: int) -> None:
    # Given power on, non-volatile memory on, and cancel
    # When they are read
    # Then each is answered with success, and is no TPM command
    assert MssimPlatform().parse(number.to_bytes(4)) == (Reply(data=bytes(4)), 4)


@pytest.mark.parametrize("number", [2, 3, 17, 1 << 31])
def test_power_off_and_the_like_are_refused(number: int) -> None:
    # Given power off, physical presence, reset, and what does not exist
    # When they are read
    # Then the client is told off by name
    with pytest.raises(UntrustedInput, match=f"{number:#x}"):
        MssimPlatform().parse(number.to_bytes(4))


@pytest.mark.parametrize("number", [20, 21])
@pytest.mark.parametrize("dialect", [Mssim(), MssimPlatform()])
def test_a_client_may_say_that_it_is_done(dialect: Dialect, number: int) -> None:
    # Given the end of a session
    # When it is read
    # Then it is the end of this connection alone
    assert dialect.parse(number.to_bytes(4)) == (End(), 4)


def test_swtpms_control_port_has_locality_0() -> None:
    # Given requests for localities, and a cancel
    # When they are read
    # Then 0 is confirmed, 4 is refused, and a cancel has no effect
    control = SwtpmControl()
    assert control.parse(bytes.fromhex("0000000500")) == (Reply(data=bytes(4)), 5)
    assert control.parse(bytes.fromhex("0000000504")) == (Reply(data=bytes.fromhex("0000003d")), 5)
    assert control.parse(bytes.fromhex("00000009")) == (Reply(data=bytes(4)), 4)


@pytest.mark.parametrize("number", [0, 2, 3, 6, 0x0C, 0x0E])
def test_swtpms_other_control_requests_are_refused(number: int) -> None:
    # Given INIT, SHUTDOWN, HASH_START, GET_STATEBLOB, STOP and nothing known
    # When they are read
    # Then there is no such thing for a client of the host's TPM
    with pytest.raises(UntrustedInput):
        SwtpmControl().parse(number.to_bytes(4) + bytes(16))


@pytest.mark.parametrize("size", [0, 9, MAX_COMMAND + 1, 0xFFFFFFFF])
def test_a_size_that_no_command_has_is_refused(size: int) -> None:
    # Given a header that lies about its size
    header = b"\x80\x01" + size.to_bytes(4) + bytes(4)
    # When it is read in either framing
    # Then it is refused before anything more is waited for
    for dialect, data in ((Raw(), header), (Mssim(), SEND[:5] + size.to_bytes(4))):
        with pytest.raises(UntrustedInput, match="bytes"):
            dialect.parse(data)
