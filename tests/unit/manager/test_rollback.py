"""Whether a store is the newest: every way to hold a wrong one is told apart."""

from __future__ import annotations

import hashlib

import pytest

from tandem.manager.rollback import CHAIN_START, Standing, extended, standing, store_root

ROOTS = [bytes([number]) * 32 for number in range(4)]


def chain(length: int) -> list[bytes]:
    """Give the values that the pTPM went through."""
    values = [CHAIN_START]
    for root in ROOTS[:length]:
        values.append(extended(values[-1], root))
    return values


@pytest.mark.parametrize(
    ("stored", "anchored", "expected"),
    [
        (3, 3, Standing.NEWEST),
        (3, 2, Standing.ONE_STEP_AHEAD),
        (2, 3, Standing.FOREIGN),
        (1, 3, Standing.FOREIGN),
        (3, 1, Standing.FOREIGN),
    ],
)
def test_a_store_stands_where_its_chain_puts_it(
    stored: int, anchored: int, expected: Standing
) -> None:
    # Given a store after so many commits, and a pTPM that knows of so many
    values = chain(3)
    # When they are compared
    found = standing(previous=values[stored - 1], root=ROOTS[stored - 1], anchored=values[anchored])
    # Then it is the newest, one step ahead, or neither
    assert found is expected


def test_a_fork_of_the_newest_commit_is_foreign() -> None:
    # Given a pTPM that went one way from the second value
    values = chain(3)
    # When a store comes that went another way from there
    found = standing(previous=values[2], root=b"\xff" * 32, anchored=values[3])
    # Then it is no newest store
    assert found is Standing.FOREIGN


def test_the_root_is_over_each_record_and_not_their_order() -> None:
    # Given two records
    records = [("a", 1, b"1" * 32), ("b", 2, b"2" * 32)]
    # When they come in another order, and when any part of one differs
    root = store_root(records)
    others = [
        [("a", 2, b"1" * 32), records[1]],
        [("ab", 1, b"1" * 32), records[1]],
        [("a", 1, b"3" * 32), records[1]],
        records[:1],
    ]
    # Then the order does not matter and the difference does
    assert store_root(reversed(records)) == root
    assert len({root, *map(store_root, others)}) == 5


def test_an_extend_is_what_tpm2_nv_extend_does() -> None:
    # Given a value and data
    # When the value is extended
    # Then it is the SHA-256 over both, as Part 3 says of TPM2_NV_Extend
    assert extended(b"v" * 32, b"d" * 32) == hashlib.sha256(b"v" * 32 + b"d" * 32).digest()
