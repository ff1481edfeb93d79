"""What a builder finds on its host: build id, settings, the files of the boot."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest

from tandem.builder.running_host import (
    HostVtpmSettings,
    find_host,
    gnu_build_id,
    parse_settings,
    read_settings,
)
from tandem.errors import HostError, UntrustedInput


def note(name: bytes, kind: int, content: bytes) -> bytes:
    def padded(part: bytes) -> bytes:
        return part + bytes(-len(part) % 4)

    return struct.pack("=III", len(name), len(content), kind) + padded(name) + padded(content)


def test_the_build_id_is_found_among_other_notes() -> None:
    # Given the notes of a kernel: Xen's, GNU's, Linux's
    build_id = bytes(range(20))
    notes = (
        note(b"Xen\0", 3, b"no build id") + note(b"GNU\0", 3, build_id) + note(b"Linux\0", 1, b"")
    )
    # When the build id is looked for
    # Then it is GNU's note of type 3
    assert gnu_build_id(notes) == build_id


@pytest.mark.parametrize("notes", [b"", bytes(11), note(b"Linux\0", 3, b"x"), b"\xff" * 64])
def test_notes_without_a_build_id_have_none(notes: bytes) -> None:
    # Given notes that hold none, or are none
    # When the build id is looked for
    # Then it is empty
    assert gnu_build_id(notes) == b""


def test_settings_that_are_absent_start_nothing(tmp_path: Path) -> None:
    # Given no settings
    # When they are read
    # Then the vTPM is for starting by hand
    assert read_settings(tmp_path / "host-vtpm.toml") == HostVtpmSettings()


def test_settings_name_files_and_group() -> None:
    # Given settings
    text = 'start = true\ngroup = "lab"\nkernel = "/boot/vmlinuz"\ninitrd = "/boot/initrd"\n'
    # When they are read
    # Then they are what they say
    assert parse_settings(text.encode()) == HostVtpmSettings(
        start=True, group="lab", kernel="/boot/vmlinuz", initrd="/boot/initrd"
    )


@pytest.mark.parametrize("text", ["start = 1", "strat = true", 'group = "A B"', "start ="])
def test_settings_with_an_error_are_refused(text: str) -> None:
    # Given settings with a wrong type, an unknown key, no name, or no TOML
    # When they are read
    with pytest.raises(UntrustedInput) as refusal:
        parse_settings(text.encode())
    # Then they are refused by name
    assert refusal.value.code == "TDM-HOST-VTPM-SETTINGS"


def test_the_running_kernel_and_the_files_named_are_found(tmp_path: Path) -> None:
    # Given a kernel file, reached by a link as /boot has them
    (tmp_path / f"vmlinuz-{os.uname().release}").write_bytes(b"kernel")
    (tmp_path / "link").symlink_to(f"vmlinuz-{os.uname().release}")
    settings = HostVtpmSettings(kernel=f"{tmp_path}/vmlinuz-{{release}}", initrd=f"{tmp_path}/link")
    # When the host is looked at
    found = find_host(settings)
    # Then release, command line and digests are there
    assert found.release == os.uname().release
    assert found.command_line == Path("/proc/cmdline").read_text().strip()
    assert found.kernel is not None
    assert found.kernel.sha256 == hashlib.sha256(b"kernel").digest()
    assert found.initrd == found.kernel


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    # Given settings that name a kernel that is not there
    settings = HostVtpmSettings(kernel=f"{tmp_path}/vmlinuz")
    # When the host is looked at
    with pytest.raises(HostError) as missing:
        find_host(settings)
    # Then that is an error, and no launch without the file
    assert missing.value.code == "TDM-HOST-VTPM-FILE"
