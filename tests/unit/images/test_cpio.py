"""The initramfs archive: what cpio itself reads, and the same bytes for the same entries."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tandem.images.cpio import archive, character_device, directory, file, link


def test_the_same_entries_in_any_order_give_the_same_bytes() -> None:
    # Given some entries
    entries = [file("b/c", b"1"), directory("a"), link("b/d", "c")]

    # When they are written twice, in different orders
    # Then the archives are equal
    assert archive(entries) == archive(reversed(entries))


def test_a_header_is_laid_out_as_linux_reads_it() -> None:
    # Given one file (initramfs buffer format, Linux Documentation/driver-api/early-userspace)
    # When it is written
    data = archive([file("ab", b"xyz", executable=True)])

    # Then magic, mode, size and name stand where Linux looks, padded to four bytes
    assert data[:6] == b"070701"
    assert int(data[14:22], 16) == 0o100755
    assert int(data[54:62], 16) == 3
    assert int(data[94:102], 16) == 3
    assert data[110:116] == b"ab\0\0\0\0"[:6]
    assert b"TRAILER!!!" in data
    assert len(data) % 4 == 0


def test_cpio_reads_what_was_written(tmp_path: Path) -> None:
    # Given an archive with a file in a folder that is not named
    data = archive(
        [file("usr/bin/tool", b"#!", executable=True), character_device("console", 5, 1)]
    )

    # When cpio lists it
    done = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True)

    # Then the folders come before the file
    assert done.stdout.decode().split() == ["console", "usr", "usr/bin", "usr/bin/tool"]
