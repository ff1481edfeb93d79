"""JSON from outside: bounded in depth before it is built, and read one way only."""

from __future__ import annotations

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.strict_json import is_plain, parse_json


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (b"1", True),
        (b'{"a": [[1], {}]}', True),
        (b'{"[[[[[[[[[[[[[[[[[[[[": "{{{{ \\" [[["}', True),
        (b'["unfinished [[[[[[[[[[[[[[[[[', True),
        (b"[" * 16 + b"]" * 16, True),
        (b"[" * 17 + b"]" * 17, False),
        (b"[]" * 200_000, False),
        (b"[" + b"1," * 300_000 + b"1]", False),
    ],
)
def test_depth_is_known_before_anything_is_built(data: bytes, plain: bool) -> None:
    # Given JSON, whole or not
    # When its parts are counted
    # Then those within texts do not count
    assert is_plain(data) is plain


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"[" * 20 + b"]" * 20, b'{"a":1,"a":1}', b"\xff", b"NaN x", b'"']
)
def test_what_is_not_plain_json_is_refused(data: bytes) -> None:
    # Given something else
    # When it is read
    # Then it is refused with the document's code
    with pytest.raises(UntrustedInput) as caught:
        parse_json(data, "test", "TDM-TEST", 1 << 20)
    assert caught.value.code == "TDM-TEST"
