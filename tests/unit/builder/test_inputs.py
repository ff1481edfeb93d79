"""Inputs: opened once, sealed, hashed; everything else in their place refused."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.builder.inputs import InputStore, read_small
from tandem.errors import HostError, Refused, UntrustedInput
from tandem.evidence.manifest_file import ManifestFile

CONTENT = b"the kernel, as signed" * 100


def signed(path: str = "kernel", content: bytes = CONTENT, size: int | None = None) -> ManifestFile:
    return ManifestFile(
        path=path,
        size=len(content) if size is None else size,
        sha256=hashlib.sha256(content).digest(),
        sha384=hashlib.sha384(content).digest(),
    )


@pytest.fixture
def store() -> Iterator[InputStore]:
    store = InputStore()
    yield store
    store.close()


def test_an_input_is_sealed_and_read_only(store: InputStore, tmp_path: Path) -> None:
    # Given a file as the library was signed for
    (tmp_path / "kernel").write_bytes(CONTENT)
    # When it is opened
    sealed = store.open(tmp_path, signed())
    # Then the descriptor holds its bytes, and nobody can change them any more
    assert os.pread(sealed.descriptor, 1 << 20, 0) == CONTENT
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(sealed.descriptor, b"x")
    writable = os.open(f"/proc/self/fd/{sealed.descriptor}", os.O_RDWR)  # as root may, anywhere
    for change in (
        lambda: os.pwrite(writable, b"x", 0),
        lambda: os.ftruncate(writable, 1),
        lambda: os.ftruncate(writable, 1 << 20),
        lambda: fcntl.fcntl(writable, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL),
    ):
        with pytest.raises(PermissionError):
            change()
    os.close(writable)
    os.close(sealed.descriptor)


def test_what_was_measured_stays_when_the_file_changes(store: InputStore, tmp_path: Path) -> None:
    # Given an input that is open
    (tmp_path / "kernel").write_bytes(CONTENT)
    sealed = store.open(tmp_path, signed())
    # When the file is overwritten
    (tmp_path / "kernel").write_bytes(CONTENT[::-1])
    # Then the open input is as it was, and the file is refused from now on
    assert os.pread(sealed.descriptor, 1 << 20, 0) == CONTENT
    os.close(sealed.descriptor)
    with pytest.raises(Refused) as refused:
        store.open(tmp_path, signed())
    assert refused.value.code == "TDM-INPUT-DIFFERS"


def test_a_later_launch_does_not_copy_again(store: InputStore, tmp_path: Path) -> None:
    # Given an input that was opened before
    (tmp_path / "kernel").write_bytes(CONTENT)
    first = store.open(tmp_path, signed())
    # When it is opened again
    second = store.open(tmp_path, signed())
    # Then it is the same memory, by a descriptor of its own
    assert os.fstat(first.descriptor).st_ino == os.fstat(second.descriptor).st_ino
    os.close(first.descriptor)
    assert os.pread(second.descriptor, 3, 0) == b"the"
    os.close(second.descriptor)


def test_what_another_library_expects_of_the_same_file_is_checked_anew(
    store: InputStore, tmp_path: Path
) -> None:
    # Given an input that is kept
    (tmp_path / "kernel").write_bytes(CONTENT)
    os.close(store.open(tmp_path, signed()).descriptor)
    # When a library asks for it that has another SHA-384 of it
    with pytest.raises(Refused) as refused:
        store.open(tmp_path, replace(signed(), sha384=bytes(48)))
    # Then what is kept does not answer
    assert refused.value.code == "TDM-INPUT-DIFFERS"


def test_a_store_that_may_keep_nothing_still_opens(tmp_path: Path) -> None:
    # Given a store without room, and two files
    store = InputStore(max_kept=0)
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(CONTENT)
    # When both are opened
    opened = [store.open(tmp_path, signed(name)) for name in ("one", "two")]
    # Then both are there
    assert [os.pread(each.descriptor, 3, 0) for each in opened] == [b"the", b"the"]
    for each in opened:
        os.close(each.descriptor)
    store.close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(CONTENT[:-1] + b"X", "SHA-256"), (CONTENT + b"X", "bytes, not"), (b"", "bytes, not")],
)
def test_another_content_is_refused(
    store: InputStore, tmp_path: Path, content: bytes, expected: str
) -> None:
    # Given a file that is not the signed one
    (tmp_path / "kernel").write_bytes(content)
    # When it is opened
    with pytest.raises(Refused, match=expected) as refused:
        store.open(tmp_path, signed())
    # Then it is refused by name
    assert refused.value.code == "TDM-INPUT-DIFFERS"


def test_a_sparse_file_of_a_terabyte_is_refused_before_it_is_copied(
    store: InputStore, tmp_path: Path
) -> None:
    # Given a file with nothing in it but its size, which the manifest even names
    with (tmp_path / "kernel").open("wb") as file:
        file.truncate(1 << 40)
    # When it is opened
    begun = time.perf_counter()
    with pytest.raises(Refused) as refused:
        store.open(tmp_path, signed(size=1 << 40))
    # Then it is refused at once
    assert refused.value.code == "TDM-INPUT-TOO-LARGE"
    assert time.perf_counter() - begun < 0.1


def make_link(path: Path) -> None:
    path.symlink_to("/dev/null")


def make_link_to_content(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(CONTENT)
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [make_link, make_link_to_content, os.mkfifo, os.mkdir])
def test_only_plain_files_are_opened(store: InputStore, tmp_path: Path, make: object) -> None:
    # Given something else where the file should be
    assert callable(make)
    make(tmp_path / "kernel")
    # When it is opened
    with pytest.raises(UntrustedInput) as refused:
        store.open(tmp_path, signed())
    # Then it is refused, and nothing was waited for
    assert refused.value.code == "TDM-INPUT-NOT-PLAIN"


def test_a_device_is_no_input(store: InputStore) -> None:
    # Given a device
    # When it is opened as an input
    with pytest.raises(UntrustedInput) as refused:
        store.open(Path("/dev"), signed("null"))
    # Then it is refused
    assert refused.value.code == "TDM-INPUT-NOT-PLAIN"


def test_a_directory_on_the_way_may_be_no_link(store: InputStore, tmp_path: Path) -> None:
    # Given a file behind a linked directory
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "kernel").write_bytes(CONTENT)
    (tmp_path / "linked").symlink_to("real")
    # When it is opened through the link
    with pytest.raises(UntrustedInput) as refused:
        store.open(tmp_path, signed("linked/kernel"))
    # Then it is refused
    assert refused.value.code == "TDM-INPUT-NOT-PLAIN"


def test_a_missing_file_names_itself_and_leaks_no_descriptor(
    store: InputStore, tmp_path: Path
) -> None:
    # Given a library without its kernel
    before = len(os.listdir("/proc/self/fd"))
    # When it is opened
    with pytest.raises(HostError, match="kernel") as failed:
        store.open(tmp_path, signed())
    # Then the error says which, and nothing stays open
    assert failed.value.code == "TDM-INPUT-UNREADABLE"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_small_file_is_bounded(tmp_path: Path) -> None:
    # Given a file that is longer than its kind may be
    (tmp_path / "key.pub").write_bytes(bytes(100))
    # When it is read
    with pytest.raises(UntrustedInput) as refused:
        read_small(tmp_path / "key.pub", 99)
    # Then it is refused
    assert refused.value.code == "TDM-FILE-TOO-LARGE"
