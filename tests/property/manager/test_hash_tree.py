"""The hash tree against a naive root: all records at once, without any tree kept between."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.manager.hash_tree import DEPTH, HashTree

Contents = dict[str, tuple[int, bytes]]
NAMES = st.sampled_from([f"vtpm/group/{number}" for number in range(12)]) | st.text(max_size=8)
DIGESTS = st.binary(min_size=32, max_size=32)
VERSIONS = st.integers(1, 2**63)
CHANGES = st.lists(
    st.tuples(NAMES, st.tuples(VERSIONS, DIGESTS) | st.none()), max_size=30
)  # None: removed


def naive_root(contents: Contents) -> bytes:
    """Give the root after its definition: every bucket and every node, empty ones too."""
    buckets: list[list[str]] = [[] for _ in range(1 << DEPTH)]
    for name in sorted(contents):
        first_bits = int(hashlib.sha256(name.encode()).hexdigest(), 16) >> (256 - DEPTH)
        buckets[first_bits].append(name)

    def leaf(name: str) -> bytes:
        version, digest = contents[name]
        encoded = name.encode()
        return len(encoded).to_bytes(4, "big") + encoded + version.to_bytes(8, "big") + digest

    level = [hashlib.sha256(b"\0" + b"".join(map(leaf, names))).digest() for names in buckets]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [hashlib.sha256(b"\1" + left + right).digest() for left, right in pairs]
    return hashlib.sha256(b"TANDEM-STORE-2\0\0" + level[0]).digest()


@settings(deadline=None)
@given(first=st.dictionaries(NAMES, st.tuples(VERSIONS, DIGESTS)), changes=CHANGES)
def test_any_changes_give_the_root_of_what_is_there(
    first: Contents, changes: list[tuple[str, tuple[int, bytes] | None]]
) -> None:
    # Given a tree over some records
    contents = dict(first)
    tree = HashTree((name, *record) for name, record in first.items())
    # When records are added, changed and removed
    for name, record in changes:
        if record is None:
            contents.pop(name, None)
            tree.remove(name)
        else:
            contents[name] = record
            tree.set(name, *record)
    # Then its root is the naive one, and that of a tree made anew
    assert tree.root() == naive_root(contents)
    assert tree.root() == HashTree((name, *record) for name, record in contents.items()).root()


@settings(deadline=None)
@given(
    one=st.dictionaries(NAMES, st.tuples(VERSIONS, DIGESTS)),
    other=st.dictionaries(NAMES, st.tuples(VERSIONS, DIGESTS)),
)
def test_different_contents_have_different_roots(one: Contents, other: Contents) -> None:
    # Given two sets of records
    roots = [HashTree((name, *record) for name, record in each.items()).root()
             for each in (one, other)]  # fmt: skip
    # When their roots are compared
    # Then they are equal exactly where the records are
    assert (roots[0] == roots[1]) == (one == other)
