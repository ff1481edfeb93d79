"""What the attester may be asked, and that it says of anything else why not."""

from __future__ import annotations

import pytest

from tandem.attester.failure import AttesterError
from tandem.attester.request import parse_request

NONCE = "ab" * 32


def test_user_data_and_registers_may_be_left_out() -> None:
    # Given a line with a nonce only
    # When it is read
    request = parse_request(b'{"nonce": "%s"}' % NONCE.encode())

    # Then the launch registers are asked for, and nothing is bound
    assert (request.nonce.hex(), request.user_data, request.registers) == (NONCE, b"", [17, 18])


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("", "not JSON"),
        ("[" * 1000, "not JSON"),
        ("[]", "not an object"),
        ("{}", "not an object"),
        (f'{{"nonce": "{NONCE}", "more": 1}}', "not an object"),
        ('{"nonce": 1}', "nonce is not hex"),
        ('{"nonce": "zz"}', "nonce is not hex"),
        ('{"nonce": "ab"}', "nonce has 1 bytes"),
        (f'{{"nonce": "{NONCE}", "user_data": "{"00" * 65}"}}', "user_data has 65 bytes"),
        (f'{{"nonce": "{NONCE}", "pcrs": [24]}}', "pcrs"),
        (f'{{"nonce": "{NONCE}", "pcrs": [true]}}', "pcrs"),
        (f'{{"nonce": "{NONCE}", "pcrs": [[]]}}', "pcrs"),
        (f'{{"nonce": "{NONCE}", "pcrs": 17}}', "pcrs"),
        (" " * 1025, "longer than 1024"),
    ],
)
def test_anything_else_is_refused_with_its_reason(line: str, part: str) -> None:
    # Given a line that is no request
    # When it is read
    with pytest.raises(AttesterError) as caught:
        parse_request(line.encode())

    # Then the refusal names the part
    assert caught.value.code == "TDM-ATTESTER-BAD-REQUEST"
    assert part in caught.value.problem
