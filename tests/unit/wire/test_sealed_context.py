"""A saved context opens for who saved it, as it was, and for nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.values import Secret
from tandem.wire.sealed_context import Context, ContextSeal, parse_context

SEAL = ContextSeal(Secret(b"k" * 32))
CONTEXTS = st.builds(
    Context,
    sequence=st.integers(0, 2**64 - 1),
    handle=st.integers(0, 2**32 - 1),
    hierarchy=st.integers(0, 2**32 - 1),
    blob=st.binary(max_size=64),
)


@given(CONTEXTS, st.integers(0, 2**32), st.integers(0, 2**32 - 1))
def test_it_opens_for_its_owner_with_its_facts(context: Context, owner: int, facts: int) -> None:
    # Given a context that somebody saved
    sealed = parse_context(SEAL.seal(context, owner=owner, facts=facts).encode())

    # When its owner, somebody else, and a process of another key open it
    # Then its owner has it as it was
    assert SEAL.open(sealed, owner=owner) == (context, facts)
    assert SEAL.open(sealed, owner=owner + 1) is None
    assert ContextSeal(Secret(b"x" * 32)).open(sealed, owner=owner) is None


@given(CONTEXTS, st.data())
def test_not_a_bit_of_it_can_be_changed(context: Context, data: st.DataObject) -> None:
    # Given a sealed context with one bit changed, or cut
    sealed = SEAL.seal(context, owner=1, facts=0).encode()
    at = data.draw(st.integers(0, len(sealed) * 8 - 1).filter(lambda bit: bit // 8 not in (16, 17)))
    changed = bytearray(sealed)
    changed[at // 8] ^= 1 << at % 8

    # When it is opened
    # Then it is refused
    assert SEAL.open(parse_context(bytes(changed)), owner=1) is None


@given(CONTEXTS)
def test_what_was_never_sealed_does_not_open(context: Context) -> None:
    # Given a context that the TPM made and nobody sealed
    # When it is opened
    # Then it is refused, however short
    assert SEAL.open(context, owner=1) is None
