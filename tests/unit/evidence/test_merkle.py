"""The tree of RFC 6962, by the values that its other implementations use."""

from __future__ import annotations

import hashlib

import pytest

from tandem.evidence.merkle import root_of_path, tree_paths

# Inputs, roots and a path of Certificate Transparency's own test (google/certificate-transparency,
# cpp/merkletree/merkle_tree_test.cc, Apache-2.0).
INPUTS = [
    *(b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43"),
    *(b"\x50\x51\x52\x53\x54\x55\x56\x57", bytes(range(0x60, 0x70))),
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [hashlib.sha256(b"\x00" + each).digest() for each in INPUTS]


@pytest.mark.parametrize("size", range(1, len(ROOTS) + 1))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    # Given the first leaves of the known tree
    # When their root is computed
    root, _ = tree_paths(LEAVES[:size])

    # Then it is the known one
    assert root.hex() == ROOTS[size - 1]


def test_a_path_is_that_of_certificate_transparency() -> None:
    # Given the known tree of three leaves
    # When the path of its third leaf is computed
    _, [*_, path] = tree_paths(LEAVES[:3])

    # Then it is the known one
    assert [each.hex() for each in path] == [ROOTS[1]]


@pytest.mark.parametrize("size", range(1, 20))
def test_every_path_leads_to_the_root_and_no_other_does(size: int) -> None:
    # Given a tree
    leaves = [hashlib.sha256(bytes([each])).digest() for each in range(size)]
    root, paths = tree_paths(leaves)

    for index in range(size):
        # When a leaf's path is walked, whole, short, long and from another place
        path = paths[index]

        # Then only the whole path from its own place leads to the root
        assert root_of_path(leaves[index], index, size, path) == root
        assert root_of_path(leaves[index], index, size, (*path, root)) != root
        if path:
            assert root_of_path(leaves[index], index, size, path[:-1]) is None
        if size > 1:
            assert root_of_path(leaves[index], (index + 1) % size, size, path) != root
