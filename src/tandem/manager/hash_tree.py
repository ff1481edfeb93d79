"""One digest over all records; to renew it takes the same time however many there are.  Pure.

Records fall into buckets by the hash of their id, and the buckets are the leaves of a binary tree
of fixed depth.  A change rehashes one bucket and its path.  Subtrees without records are not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

DEPTH: Final = 12  # 4,096 buckets: with 10,000 records, two or three in each
ROOT_TAG: Final = b"TANDEM-STORE-2\0\0"
BUCKET_PREFIX: Final = b"\x00"
NODE_PREFIX: Final = b"\x01"


def _empty_subtrees() -> tuple[bytes, ...]:
    """Give the digest of a subtree without records, for each height from 0 to DEPTH."""
    digests = [hashlib.sha256(BUCKET_PREFIX).digest()]
    for _ in range(DEPTH):
        digests.append(_node(digests[-1], digests[-1]))
    return tuple(digests)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


_EMPTY: Final = _empty_subtrees()


class HashTree:
    """A set of records, each an id, a version and the SHA-256 of its ciphertext."""

    def __init__(self, records: Iterable[tuple[str, int, bytes]] = ()) -> None:
        self._buckets: dict[int, dict[str, bytes]] = {}
        self._nodes: dict[tuple[int, int], bytes] = {}  # by height and place; none where empty
        self._changed: set[int] = set()  # buckets whose digests and paths are to be renewed
        for record in records:
            self.set(*record)

    def set(self, name: str, version: int, digest: bytes) -> None:
        """Add a record, or give it a new version."""
        encoded = name.encode()
        leaf = len(encoded).to_bytes(4) + encoded + version.to_bytes(8) + digest
        place = _place(name)
        self._buckets.setdefault(place, {})[name] = leaf
        self._changed.add(place)

    def remove(self, name: str) -> None:
        """Take a record away; one that is not there makes no difference."""
        place = _place(name)
        if self._buckets.get(place, {}).pop(name, None) is not None:
            self._changed.add(place)

    def root(self) -> bytes:
        """Give the digest over all records; what changed since is hashed now, once for all."""
        places, self._changed = self._changed, set()
        for place in places:
            self._renew_bucket(place)
        for height in range(1, DEPTH + 1):
            places = {place >> 1 for place in places}
            for place in places:
                self._renew_node(height, place)
        return hashlib.sha256(ROOT_TAG + self._nodes.get((DEPTH, 0), _EMPTY[DEPTH])).digest()

    def _renew_bucket(self, place: int) -> None:
        bucket = self._buckets[place]
        if bucket:
            self._nodes[0, place] = _bucket_digest(bucket)
        else:
            del self._buckets[place]
            self._nodes.pop((0, place), None)

    def _renew_node(self, height: int, place: int) -> None:
        empty = _EMPTY[height - 1]
        left = self._nodes.get((height - 1, 2 * place), empty)
        right = self._nodes.get((height - 1, 2 * place + 1), empty)
        if left == right == empty:
            self._nodes.pop((height, place), None)
        else:
            self._nodes[height, place] = _node(left, right)


def _place(name: str) -> int:
    """Give the bucket of an id: the first DEPTH bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:2]) >> (16 - DEPTH)


def _bucket_digest(bucket: dict[str, bytes]) -> bytes:
    """Hash a bucket's leaves by id; each states its length, so no two sets give the same bytes."""
    return hashlib.sha256(
        BUCKET_PREFIX + b"".join(bucket[name] for name in sorted(bucket))
    ).digest()
