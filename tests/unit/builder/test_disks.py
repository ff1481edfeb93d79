"""Disks that are handed over as they are: who vouches for them, and who may write to them."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from tandem.builder.disks import MEASURE_VERITY, open_disk, require_root_hash
from tandem.builder.inputs import SealedInput, digest
from tandem.errors import HostError, Refused, UntrustedInput
from tandem.evidence.guest_entry import Disk, DiskKind

ROOT_HASH = bytes(range(32))


def disk(kind: DiskKind, **changes: bytes | None) -> Disk:
    given: dict[str, bytes | None] = {"root_hash": None, "digest": None, **changes}
    return Disk(id="data", kind=kind, path="disk.img", file=None, **given)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "disk.img").write_bytes(b"content")
    return tmp_path


def memory(content: bytes) -> SealedInput:
    descriptor = os.memfd_create("input")
    os.write(descriptor, content)
    return SealedInput(descriptor=descriptor, blob=digest(descriptor))


@pytest.mark.parametrize(
    ("kind", "access"), [(DiskKind.DATA, os.O_RDWR), (DiskKind.VERITY, os.O_RDONLY)]
)
def test_only_a_disk_for_data_can_be_written_to(library: Path, kind: DiskKind, access: int) -> None:
    # Given a disk of this kind
    # When it is opened
    descriptor = open_disk(library, disk(kind))
    # Then the descriptor, which is all that the hypervisor gets, has these rights
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == access
    os.close(descriptor)


def test_a_disk_for_data_is_one_guests_at_a_time(library: Path) -> None:
    # Given a guest's disk for data, whose descriptor lives in its hypervisor
    first = open_disk(library, disk(DiskKind.DATA))
    hypervisors = os.dup(first)
    os.close(first)
    # When another guest's is opened, and again after the hypervisor is gone
    with pytest.raises(Refused) as refused:
        open_disk(library, disk(DiskKind.DATA))
    os.close(hypervisors)
    # Then it is refused, and only until then
    assert refused.value.code == "TDM-DISK-BUSY"
    os.close(open_disk(library, disk(DiskKind.DATA)))


def test_no_link_is_followed(library: Path) -> None:
    # Given a link in a disk's place
    (library / "disk.img").unlink()
    (library / "disk.img").symlink_to("/dev/sda")
    # When it is opened
    # Then it is refused
    with pytest.raises(UntrustedInput):
        open_disk(library, disk(DiskKind.DATA))


def test_a_file_that_the_kernel_does_not_check_is_refused(library: Path) -> None:
    # Given a file without fs-verity
    # When it is opened as a disk with
    # Then the error says how to switch it on
    with pytest.raises(HostError) as failed:
        open_disk(library, disk(DiskKind.FS_VERITY, digest=ROOT_HASH))
    assert failed.value.code == "TDM-DISK-NO-FSVERITY"


@pytest.mark.parametrize(
    ("algorithm", "found", "holds"),
    [(1, ROOT_HASH, True), (1, bytes(32), False), (2, ROOT_HASH, False)],
)
def test_the_kernels_digest_must_be_the_librarys(
    library: Path, monkeypatch: pytest.MonkeyPatch, algorithm: int, found: bytes, holds: bool
) -> None:
    # Given a kernel that checks a file against a digest (this machine's may have none that can)
    def measure(_: int, request: int, argument: bytearray) -> int:
        assert request == MEASURE_VERITY
        argument[:] = struct.pack("=HH32s", algorithm, 32, found)
        return 0

    monkeypatch.setattr("tandem.builder.disks.fcntl.ioctl", measure)
    # When the file is opened as a disk
    # Then only the digest in the library will do
    if holds:
        os.close(open_disk(library, disk(DiskKind.FS_VERITY, digest=ROOT_HASH)))
        return
    with pytest.raises(Refused) as refused:
        open_disk(library, disk(DiskKind.FS_VERITY, digest=ROOT_HASH))
    assert refused.value.code == "TDM-DISK-DIFFERS"


def test_a_root_hash_must_stand_in_a_measured_input() -> None:
    # Given a disk for dm-verity, and a UKI with its root hash on the command line within
    verity = disk(DiskKind.VERITY, root_hash=ROOT_HASH)
    other, kernel = memory(b"image"), memory(b"..roothash=" + ROOT_HASH.hex().encode() + b" quiet")
    # When the inputs are looked through
    require_root_hash(verity, (other, kernel))
    # Then the disk is refused without that UKI only, and no other kind of disk is
    with pytest.raises(Refused) as refused:
        require_root_hash(verity, (other,))
    assert refused.value.code == "TDM-DISK-UNCHECKED"
    require_root_hash(disk(DiskKind.DATA), ())
    for each in (other, kernel):
        os.close(each.descriptor)
