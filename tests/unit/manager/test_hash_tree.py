"""The hash tree: what its root is over, and what a change costs."""

from __future__ import annotations

import hashlib
from unittest.mock import patch

import pytest

from tandem.manager.hash_tree import DEPTH, HashTree

Records = list[tuple[str, int, bytes]]


def root(records: Records) -> bytes:
    return HashTree(records).root()


def test_the_root_is_over_each_record_and_not_their_order() -> None:
    # Given two records
    records = [("a", 1, b"1" * 32), ("b", 2, b"2" * 32)]
    # When they come in another order, and when any part of one differs
    others: list[Records] = [
        [("a", 2, b"1" * 32), records[1]],
        [("ab", 1, b"1" * 32), records[1]],
        [("a", 1, b"3" * 32), records[1]],
        records[:1],
        [],
    ]
    # Then the order does not matter and the difference does
    assert root(records[::-1]) == root(records)
    assert len({root(records), *map(root, others)}) == 6


@pytest.mark.parametrize("records", [10, 10_000])
def test_a_change_costs_one_path_however_many_records_there_are(records: int) -> None:
    # Given a tree
    tree = HashTree((f"vtpm/default/{number}", 1, bytes(32)) for number in range(records))
    tree.root()
    hashed, sha256 = 0, hashlib.sha256

    def counted(data: bytes) -> hashlib._Hash:
        nonlocal hashed
        hashed += 1
        return sha256(data)

    # When a record changes
    with patch.object(hashlib, "sha256", counted):
        tree.set("vtpm/default/3", 2, b"2" * 32)
        tree.root()
    # Then its place, its bucket, the nodes above it and the root were hashed, and nothing else
    assert hashed == DEPTH + 3


def test_a_record_that_was_removed_leaves_no_trace() -> None:
    # Given a tree with one record more than another
    tree, other = HashTree([("a", 1, bytes(32)), ("b", 1, bytes(32))]), [("a", 1, bytes(32))]
    # When it is removed, twice
    tree.remove("b")
    tree.remove("b")
    # Then the trees are alike
    made = HashTree(other)
    assert tree.root() == made.root()
    assert tree.__dict__ == made.__dict__
