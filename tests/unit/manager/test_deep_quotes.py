"""A batch: one quote of the pTPM, and a path from each request to what it signed."""

from __future__ import annotations

import pytest

from tandem.evidence.deep_quote import leaf_hash
from tandem.evidence.merkle import root_of_path
from tandem.evidence.pair_record import record_digest
from tandem.manager.deep_quotes import quote_batch
from tandem.manager.ptpm import PtpmQuote


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_each_request_has_a_path_to_the_one_quote(size: int) -> None:
    # Given requests of several pairs
    requests = [(b"record %d" % number, bytes([number]) * 32) for number in range(size)]
    quoted: list[bytes] = []

    def quote(root: bytes) -> PtpmQuote:
        quoted.append(root)
        return PtpmQuote(attest=root, signature=b"s", pcrs={8: bytes(32)})

    # When they are answered together
    answers = quote_batch(requests, quote)
    # Then there was one quote, and each leads to it from the Manager's own record
    [root] = quoted
    for (record, digest), answer in zip(requests, answers, strict=True):
        leaf = leaf_hash(answer.salt, record_digest(record), digest)
        assert root_of_path(leaf, answer.leaf_index, answer.tree_size, answer.path) == root
        assert answer.attest == root
    # And no salt is used twice: a path tells nothing about its neighbours
    assert len({answer.salt for answer in answers}) == size
