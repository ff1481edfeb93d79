"""No bytes at all break the reader of messages, and what it reads is what was written."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import UntrustedInput
from tandem.wire import builder_rpc, manager_rpc, zygote_rpc
from tandem.wire.messages import MessageSet

SETS = [
    value
    for module in (builder_rpc, manager_rpc, zygote_rpc)
    for value in vars(module).values()
    if isinstance(value, MessageSet)
]
SCALARS: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(0, (1 << 64) - 1),
    bytes: st.binary(max_size=40),
    str: st.text(max_size=20),
    bool: st.booleans(),
}


def fields_of(kind: type) -> st.SearchStrategy[Any]:
    """Any value that a message field of this type can have."""
    if kind in SCALARS:
        return SCALARS[kind]
    arguments = get_args(kind)
    if dict in (kind, getattr(kind, "__origin__", None)):
        return st.dictionaries(SCALARS[arguments[0]], fields_of(arguments[1]), max_size=3)
    return st.lists(SCALARS[arguments[0]], max_size=3).map(tuple)


@st.composite
def messages(draw: st.DrawFn) -> tuple[MessageSet, Any]:
    """Any message of any protocol."""
    protocol = draw(st.sampled_from(SETS))
    kind = draw(st.sampled_from(sorted(protocol.kinds, key=lambda each: each.__name__)))
    hints = get_type_hints(kind)
    values = {field.name: draw(fields_of(hints[field.name])) for field in dataclasses.fields(kind)}
    return protocol, kind(**values)


@given(sent=messages())
def test_every_message_arrives_as_it_was_sent(sent: tuple[MessageSet, Any]) -> None:
    # Given any message of any protocol
    protocol, message = sent

    # When it is written and read
    # Then it is the same
    assert protocol.decode(protocol.encode(message)) == message


@given(sent=messages(), data=st.data())
def test_a_damaged_message_is_refused_or_another_whole_message(
    sent: tuple[MessageSet, Any], data: st.DataObject
) -> None:
    # Given a message with one byte changed
    protocol, message = sent
    wire = bytearray(protocol.encode(message))
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= data.draw(st.integers(1, 255))

    # When it is read
    # Then it is refused, or it is exactly what those bytes say
    try:
        received = protocol.decode(bytes(wire))
    except UntrustedInput:
        return
    assert protocol.encode(received) == bytes(wire)


@pytest.mark.parametrize("protocol", SETS, ids=lambda each: each.name)
@given(noise=st.binary(max_size=200))
def test_any_bytes_at_all_are_a_message_or_a_refusal(protocol: MessageSet, noise: bytes) -> None:
    # Given any bytes at all
    # When they are read
    # Then nothing but a refusal, or the message that they are, comes out
    try:
        received = protocol.decode(noise)
    except UntrustedInput:
        return
    assert protocol.encode(received) == noise
