"""The campaign's guest is a bzImage that the builder takes, and is made once."""

from __future__ import annotations

import pytest

from kills import payload

MAGIC, MAGIC_OFFSET = b"HdrS", 0x202  # boot.rst, field `header`


def test_the_guest_is_a_bzimage_and_is_not_made_again() -> None:
    # Given the guest's sources
    # When its kernel is asked for twice
    image = payload.kernel()
    made = image.stat().st_mtime_ns
    content = image.read_bytes()
    # Then it has the header of a Linux kernel, whole sectors, and is the same file
    assert content[MAGIC_OFFSET : MAGIC_OFFSET + len(MAGIC)] == MAGIC
    assert content[0x1F1] == payload.SETUP_SECTORS
    assert len(content) == (payload.SETUP_SECTORS + 2) * payload.SECTOR
    assert payload.kernel() == image
    assert image.stat().st_mtime_ns == made


def test_a_guest_that_grew_too_large_is_refused() -> None:
    # Given more code than the loader would copy
    # When it is made a bzImage
    # Then that fails, rather than being cut off
    with pytest.raises(ValueError, match="more than"):
        payload.bzimage(bytes(payload.SETUP_SECTORS * payload.SECTOR + payload.SECTOR + 1))
