"""Whether a store is the newest: every way to hold a wrong one is told apart."""

from __future__ import annotations

import hashlib

import pytest

from tandem.manager.rollback import CHAIN_START, Standing, extended, standing

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


@pytest.mark.parametrize("open_commits", [1, 2, 5])
def test_each_commit_of_an_open_window_is_one_step_ahead(open_commits: int) -> None:
    # Given commits that all name the value which the pTPM holds, for it was told of none of them
    anchored = chain(2)[2]
    # When any of them is compared, and when the pTPM was told of another one
    root, another = bytes([open_commits]) * 32, b"\xff" * 32
    before = standing(previous=anchored, root=root, anchored=anchored)
    after = standing(previous=anchored, root=root, anchored=extended(anchored, another))
    # Then it may open before, and never after
    assert (before, after) == (Standing.ONE_STEP_AHEAD, Standing.FOREIGN)


def test_an_extend_is_what_tpm2_nv_extend_does() -> None:
    # Given a value and data
    # When the value is extended
    # Then it is the SHA-256 over both, as Part 3 says of TPM2_NV_Extend
    assert extended(b"v" * 32, b"d" * 32) == hashlib.sha256(b"v" * 32 + b"d" * 32).digest()
