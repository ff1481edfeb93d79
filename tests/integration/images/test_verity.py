"""dm-verity's hash tree, by veritysetup: the same bytes again, and no byte changed unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.images.verity import BLOCK, is_intact, protect

CONTENT = bytes(range(256)) * 100  # not a whole number of blocks


def image(folder: Path, name: str = "image") -> Path:
    path = folder / name
    path.write_bytes(CONTENT)
    return path


def test_the_same_content_gives_the_same_image(tmp_path: Path) -> None:
    # Given two files of the same content
    one, two = image(tmp_path, "one"), image(tmp_path, "two")
    # When both are protected
    verities = [protect(each) for each in (one, two)]
    # Then root hash and bytes are the same, and the content is where it was
    assert verities[0] == verities[1]
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes().startswith(CONTENT)
    assert verities[0].hash_offset % BLOCK == 0
    assert is_intact(one, verities[0])


@pytest.mark.parametrize("at", [0, len(CONTENT) - 1, len(CONTENT) + 10, -10])
def test_a_changed_byte_of_content_or_hash_tree_is_found(tmp_path: Path, at: int) -> None:
    # Given a protected image
    path = image(tmp_path)
    verity = protect(path)
    # When one byte changes: of the content, of what fills its last block, or of the hash tree
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    # Then it is not intact
    assert not is_intact(path, verity)


def test_another_root_hash_does_not_vouch_for_it(tmp_path: Path) -> None:
    # Given a protected image, and the root hash of another
    one, two = image(tmp_path, "one"), tmp_path / "two"
    two.write_bytes(CONTENT[::-1])
    protect(one)
    other = protect(two)
    # When they are brought together
    # Then it is not intact
    assert not is_intact(one, other)
