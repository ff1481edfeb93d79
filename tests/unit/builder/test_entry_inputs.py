"""Inputs of a UEFI guest: its variables are a copy of its own, and measured as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem.builder.entry_inputs import EntryInputs, open_inputs, open_variables
from tandem.builder.inputs import InputStore, SealedInput, digest
from tandem.builder.library import guest_entry, open_library
from tandem.errors import HostError, Refused
from tests.unit.builder.signing import file, guest, new_key, sign, trust, write_files

TEMPLATE = b"variables as signed"
ROOT_HASH = "ab" * 32


@pytest.fixture
def template() -> Iterator[SealedInput]:
    memory = os.memfd_create("template")
    os.write(memory, TEMPLATE)
    yield SealedInput(descriptor=memory, blob=digest(memory))
    os.close(memory)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "variables" / "web.fd"


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def open_uefi(directory: Path, kept: Path, **boot: Any) -> EntryInputs:
    """Open the inputs of an entry that keeps its variables; disks by `disks`."""
    write_files(directory)
    (directory / "variables.fd").write_bytes(TEMPLATE)
    (directory / "root.img").write_bytes(b"root")
    disks = boot.pop("disks", [])
    entry = guest(directory, disks=disks) | {
        "boot": {
            "method": "uefi",
            "firmware": file(directory, "firmware"),
            "variables": file(directory, "variables.fd"),
            "keep_variables": True,
            "secure_boot": False,
            "roms": [file(directory, "kvmvapic.bin")],
            "kernel": file(directory, "kernel"),
            **boot,
        }
    }
    key, store = new_key(), InputStore(max_kept=0)
    library = open_library(sign(directory, key, {"web": entry}), trust(key))
    try:
        return open_inputs(library, guest_entry(library, "web"), store, kept)
    finally:
        store.close()


def test_a_fresh_copy_can_be_written_to_but_not_change_its_size(template: SealedInput) -> None:
    # Given a template
    # When two launches have a copy each, and one guest writes
    one, other = (open_variables(template, None) for _ in range(2))
    os.pwrite(one.descriptor, b"VARIABLES", 0)
    # Then the other's and the template are as before, and flash stays as large as it is
    assert os.pread(other.descriptor, 100, 0) == os.pread(template.descriptor, 100, 0) == TEMPLATE
    assert one.blob == other.blob == template.blob
    for size in (0, len(TEMPLATE) + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(one.descriptor, size)
    os.close(one.descriptor)
    os.close(other.descriptor)


def test_kept_variables_are_the_guests_own_and_measured_as_they_are_by_then(
    template: SealedInput, kept: Path
) -> None:
    # Given a guest whose first launch made its store of the template, and wrote to it
    first = open_variables(template, kept)
    assert first.blob == template.blob
    os.pwrite(first.descriptor, b"VARIABLES", 0)
    os.close(first.descriptor)
    # When it is launched again
    second = open_variables(template, kept)
    # Then it has what it wrote, that is what is measured, and nobody but root may read it
    assert os.pread(second.descriptor, 100, 0) == b"VARIABLES as signed"
    assert second.blob == digest(second.descriptor) != template.blob
    assert kept.stat().st_mode & 0o777 == 0o600
    os.close(second.descriptor)


def test_kept_variables_have_one_launch_at_a_time(template: SealedInput, kept: Path) -> None:
    # Given a launch with its variables, whose descriptor lives on in its hypervisor
    first = open_variables(template, kept)
    hypervisors = os.dup(first.descriptor)
    os.close(first.descriptor)
    before = descriptors()
    # When another takes them, and again once the hypervisor is gone
    with pytest.raises(Refused) as refused:
        open_variables(template, kept)
    # Then it is refused until then, and leaves no descriptor open
    assert refused.value.code == "TDM-DISK-BUSY"
    assert descriptors() == before
    os.close(hypervisors)
    os.close(open_variables(template, kept).descriptor)


def test_kept_variables_are_not_looked_for_behind_a_link(
    template: SealedInput, kept: Path, tmp_path: Path
) -> None:
    # Given a link where the variables should be, to a file of the host
    kept.parent.mkdir()
    (tmp_path / "host").write_bytes(b"the host's")
    kept.symlink_to(tmp_path / "host")
    # When a launch takes them
    with pytest.raises(HostError) as refused:
        open_variables(template, kept)
    # Then it is refused: the guest would write there
    assert refused.value.code == "TDM-VARIABLES-UNUSABLE"


def test_every_descriptor_of_a_launch_is_closed_with_it(tmp_path: Path, kept: Path) -> None:
    # Given what is open
    before = descriptors()
    # When the inputs of a UEFI guest are opened and closed
    inputs = open_uefi(tmp_path, kept, disks=[{"id": "d", "kind": "data", "path": "root.img"}])
    assert inputs.variables is not None
    inputs.close()
    # Then nothing is left, its locks neither
    assert descriptors() == before
    open_uefi(tmp_path, kept, disks=[{"id": "d", "kind": "data", "path": "root.img"}]).close()


def test_a_launch_that_fails_late_gives_variables_and_disks_back(
    tmp_path: Path, kept: Path
) -> None:
    # Given an entry whose kernel, the only measured input, does not have its disk's root hash
    root = {"id": "root", "kind": "verity", "path": "root.img", "root_hash": ROOT_HASH}
    scratch = {"id": "scratch", "kind": "data", "path": "root.img"}
    before = descriptors()
    # When its inputs are opened, twice
    codes = []
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            open_uefi(tmp_path, kept, disks=[root, scratch])
        codes.append(refused.value.code)
    # Then each time that is why, and no descriptor and no lock is left
    assert codes == ["TDM-DISK-UNCHECKED"] * 2
    assert descriptors() == before
