"""Deep quotes of one batch: one Merkle tree, one pTPM quote, a path for each request."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from tandem.evidence.deep_quote import SALT_SIZE, leaf_hash
from tandem.evidence.merkle import inclusion_path, tree_root
from tandem.evidence.pair_record import record_digest
from tandem.manager.ptpm import PtpmQuote
from tandem.wire.manager_rpc import DeepQuoted

Quote = Callable[[bytes], PtpmQuote]


def quote_batch(requests: Sequence[tuple[bytes, bytes]], quote: Quote) -> list[DeepQuoted]:
    """Answer requests (pair record, digest of the vTPM's quote) with one pTPM quote of their root.

    The record is the one that the Manager holds for the connection, never one that a vTPM names.
    """
    salts = [os.urandom(SALT_SIZE) for _ in requests]
    leaves = [
        leaf_hash(salt, record_digest(record), digest)
        for salt, (record, digest) in zip(salts, requests, strict=True)
    ]
    quoted = quote(tree_root(leaves))
    return [
        DeepQuoted(
            salt=salt,
            leaf_index=index,
            tree_size=len(leaves),
            path=inclusion_path(leaves, index),
            attest=quoted.attest,
            signature=quoted.signature,
            pcrs=dict(quoted.pcrs),
        )
        for index, salt in enumerate(salts)
    ]
