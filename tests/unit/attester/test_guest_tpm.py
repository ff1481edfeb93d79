"""Responses of a TPM that the attester does not believe, and the names of response codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.attester.failure import AttesterError
from tandem.attester.guest_tpm import GuestTpm
from tandem.attester.response_codes import base_code, response_code_name


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x101, "TPM_RC_FAILURE (0x101)"),
        (0x1C4, "TPM_RC_VALUE (0x1c4, parameter 1)"),
        (0x18B, "TPM_RC_HANDLE (0x18b, handle 1)"),
        (0x98E, "TPM_RC_AUTH_FAIL (0x98e, session 1)"),
        (0x907, "TPM_RC_LOCALITY (0x907)"),
        (0x000B0143, "TPM_RC_unnamed (0xb0143)"),
    ],
)
def test_a_response_code_has_the_name_of_the_specification(code: int, name: str) -> None:
    # Given a code as a TPM, or Linux's resource manager, answers it
    # When it is named
    # Then the name is the one of TPM 2.0 Part 2, with what it is about
    assert response_code_name(code) == name


def test_a_code_is_compared_without_what_it_is_about() -> None:
    # Given one error of handle 1 and of handle 2
    # When what they are about is taken off
    # Then they are the same
    assert base_code(0x18B) == base_code(0x28B) == 0x08B
    assert base_code(0x14A) == 0x14A


class FixedTpm(GuestTpm):
    def __init__(self, response: bytes) -> None:
        self.response = response

    def exchange(self, command: bytes) -> bytes:
        return self.response


@pytest.mark.parametrize(
    "response",
    [
        "",
        "8001",
        "8001 0000000b 00000000",  # a size that is not its own
        "8002 00000014 00000000 00000002 0008 00000000",  # more data than there is
    ],
)
def test_a_response_that_breaks_its_format_is_an_error(response: str) -> None:
    # Given a TPM that answers nonsense
    tpm = FixedTpm(bytes.fromhex(response))

    # When an index is read
    # Then the attester says so
    with pytest.raises(AttesterError) as caught:
        tpm.nv_read(0x01400110, 8, 0)
    assert caught.value.code == "TDM-ATTESTER-TPM-RESPONSE"


def test_a_public_area_that_ends_early_is_an_error() -> None:
    # Given a TPM whose NV_ReadPublic names a policy longer than the response
    tpm = FixedTpm(
        bytes.fromhex("8001 00000018 00000000 000e 01400110 000b 00000000 ffff".ljust(1))
    )

    # When the size of an index is asked for
    # Then the attester says so
    with pytest.raises(AttesterError) as caught:
        tpm.nv_size(0x01400110)
    assert caught.value.code == "TDM-ATTESTER-TPM-RESPONSE"


def test_a_guest_without_a_tpm_is_told(tmp_path: Path) -> None:
    # Given a guest without the device file
    # When the attester opens it
    # Then the error names the file
    with pytest.raises(AttesterError) as caught:
        GuestTpm(str(tmp_path / "tpmrm0"))
    assert caught.value.code == "TDM-ATTESTER-NO-TPM"
    assert "tpmrm0" in caught.value.problem
