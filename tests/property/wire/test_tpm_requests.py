"""The parser of TPM commands takes any bytes: a known command, or the code that a TPM gives."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

from hypothesis import example, given
from hypothesis import strategies as st

from tandem.wire.auth_failures import authorizes_protected, creates_exempt
from tandem.wire.broker_rights import Range, Rights
from tandem.wire.broker_rules import refusal
from tandem.wire.sealed_context import parse_context
from tandem.wire.signing_schemes import commitment_of
from tandem.wire.tpm_commands import command
from tandem.wire.tpm_requests import BadRequest, Request, parse_request
from tandem.wire.tpm_table import TABLE, Rule

Read = TypeVar("Read")
RIGHTS = Rights(
    extend=frozenset({16}),
    read_registers=False,
    nv=(Range(first=0x01500000, last=0x0150000F),),
    persistent=(Range(first=0x81008000, last=0x8100800F),),
)
CODES = st.sampled_from(sorted(TABLE)) | st.integers(0, 2**32 - 1)
HANDLES = st.sampled_from(
    [0x40000001, 0x4000000B, 0x4000000C, 0x40000007, 0x80000000, 0x81015440, 0x01800544, 0x02000000]
) | st.integers(0, 2**32 - 1)
AUTHORIZATIONS = st.binary(max_size=24) | st.builds(
    lambda handle, attributes: struct.pack(">IHBH", handle, 0, attributes, 0),
    st.sampled_from([0x40000009, 0x02000000, 0x03000001]),
    st.integers(0, 255),
)


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    """Make bytes that are nearly a command: each part right, or anything."""
    made = command(
        draw(CODES),
        draw(st.lists(HANDLES, max_size=4)),
        draw(st.binary(max_size=64)),
        draw(st.lists(AUTHORIZATIONS, max_size=4)),
    )
    cut = draw(st.integers(0, len(made)))
    return draw(st.sampled_from([made, made[:cut], made + b"\x00", made[:6]]))


@given(commands() | st.binary(max_size=5000))
@example(b"")
@example(bytes.fromhex("8002000000170000018240000009ffffffff00000000"))
def test_any_bytes_are_a_known_command_or_a_response_code(data: bytes) -> None:
    # Given any bytes
    # When they are read as a command
    request = _or_code(lambda: parse_request(data))

    # Then they are refused with a TPM's response code, or every part is where it says
    if isinstance(request, int):
        assert 0 < request < 0x1000
        return
    assert request.row is TABLE[int.from_bytes(data[6:10])]
    assert len(request.handles) == len(request.row.places)
    assert len(request.authorizations) >= request.row.authorizations
    assert 10 + 4 * len(request.handles) <= request.parameters_at <= len(data)
    assert request.with_handles(request.handles) == data
    _judge(request)


@given(st.binary(max_size=256))
def test_any_bytes_are_a_context_or_refused(data: bytes) -> None:
    # Given any bytes
    # When they are read as a saved context
    # Then they are one, written back as they were, or refused
    context = _or_code(lambda: parse_context(data))
    assert context if isinstance(context, int) else context.encode() == data


def _judge(request: Request) -> None:
    """Whatever is asked of a command gives an answer, or the refusal of its parameters."""
    judges: tuple[Callable[[], int], ...] = (
        lambda: refusal(request, RIGHTS),
        lambda: int(creates_exempt(request, lambda _handle: False)),
        lambda: int(authorizes_protected(request, lambda _handle: False)),
        lambda: commitment_of(request) or 0,
    )
    for judge in judges:
        assert _or_code(judge) >= 0
    if request.row.rule is Rule.REFUSE:
        assert refusal(request, RIGHTS)


def _or_code(read: Callable[[], Read]) -> Read | int:
    """Give what is read, or the response code of the refusal."""
    try:
        return read()
    except BadRequest as error:
        return error.number
