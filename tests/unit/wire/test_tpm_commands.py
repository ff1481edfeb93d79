"""Commands are the bytes that other implementations send."""

from __future__ import annotations

import pytest

from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Code, Rc, StartupType


@pytest.mark.parametrize(
    ("command", "wire"),
    [
        # the first three as QEMU 7.2 and SeaBIOS send them
        (tpm.read_clock(), "8001 0000000a 00000181"),
        (tpm.startup(StartupType.CLEAR), "8001 0000000c 00000144 0000"),
        (tpm.shutdown(StartupType.STATE), "8001 0000000c 00000145 0001"),
        # as tpm2-tools 5.4 sends `tpm2_pcrread sha256:17,18`
        (tpm.pcr_read([17, 18]), "8001 00000014 0000017e 00000001 000b 03 000006"),
        # as swtpm_bios sends an extend of PCR 10 (TPM_RS_PW, empty)
        (
            tpm.pcr_extend(10, {tpm.SHA256: bytes(32)}),
            "8002 00000041 00000182 0000000a 00000009 40000009 0000 00 0000 00000001 000b"
            + "00" * 32,
        ),
    ],
)
def test_a_command_is_these_bytes(command: bytes, wire: str) -> None:
    # Given bytes that another implementation sends
    # When the same command is written here
    # Then it is the same
    assert command == bytes.fromhex(wire)


def test_a_response_with_sessions_gives_handle_and_parameters_without_the_sessions() -> None:
    # Given a response with handle, parameter size, two bytes of parameters and a session area
    data = bytes.fromhex("8002 00000019 00000000 80000000 00000002 abcd 000001 0000")

    # When it is read
    response = tpm.parse_response(data, with_handle=True)

    # Then sessions are left out
    assert (response.code, response.handle, response.parameters) == (0, 0x80000000, b"\xab\xcd")


def test_an_unsuccessful_response_is_its_code_alone() -> None:
    # Given what a TPM answers before Startup
    # When it is read
    response = tpm.parse_response(tpm.response(Rc.INITIALIZE), with_handle=True)

    # Then only the code is there
    assert (response.code, response.parameters) == (0x100, b"")


def test_the_policy_of_the_endorsement_key_is_the_profile_s() -> None:
    # Given PolicyA of the EK Credential Profile (PolicySecret with TPM_RH_ENDORSEMENT)
    known = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"

    # When it is computed
    # Then it is the profile's digest
    assert tpm.policy_secret_digest(tpm.ENDORSEMENT.to_bytes(4)).hex() == known


def test_the_vendor_command_has_the_vendor_bit() -> None:
    # Given the deep-quote command
    # When bit 29 is looked at (Part 2, 8.9)
    # Then it is set
    assert Code.DEEP_QUOTE >> 29 & 1
