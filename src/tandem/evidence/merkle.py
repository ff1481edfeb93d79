"""Merkle tree over the deep quotes of one batch (RFC 6962, section 2.1), with inclusion paths.

Leaves arrive hashed with their 0x00 prefix (`deep_quote.leaf_hash`); inner nodes carry 0x01, so no
leaf can pass for a node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

NODE_PREFIX: Final = b"\x01"
MAX_TREE: Final = 1 << 20
MAX_PATH: Final = 20  # hashes in a path through MAX_TREE leaves


def tree_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[tuple[bytes, ...]]]:
    """Give the root over one or more leaf hashes (MTH of RFC 6962), and each leaf's path (PATH).

    A path has the hashes that lead from its leaf to the root, nearest first.
    """
    if len(leaves) == 1:
        return leaves[0], [()]
    split = _split(len(leaves))
    left, left_paths = tree_paths(leaves[:split])
    right, right_paths = tree_paths(leaves[split:])
    paths = [(*path, right) for path in left_paths] + [(*path, left) for path in right_paths]
    return _node(left, right), paths


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Give the root that a path claims, or None where the path does not fit the tree's shape.

    RFC 9162, section 2.1.3.2, verifies with the same walk.
    """
    if not 0 <= index < size <= MAX_TREE:
        return None
    node, last, at = leaf, size - 1, index
    for sibling in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            node = _node(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = _node(node, sibling)
        at, last = at >> 1, last >> 1
    return node if last == 0 else None


def _split(size: int) -> int:
    """Give the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE_PREFIX + left + right).digest()
