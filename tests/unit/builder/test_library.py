"""The library as the builder reads it: signed, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandem.builder.entry_inputs import open_inputs
from tandem.builder.inputs import InputStore
from tandem.builder.library import (
    check_built_once,
    guest_entry,
    open_library,
    read_trust,
)
from tandem.errors import HostError, Refused, UntrustedInput, UsageError
from tests.unit.builder.signing import file, guest, new_key, public_pem, sign, trust, write_files


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


def test_a_signed_library_gives_its_entries_and_their_inputs(directory: Path) -> None:
    # Given a library that a trusted key signed
    key = new_key()
    path = sign(directory, key, {"web": guest(directory)})
    # When its entry is opened
    library = open_library(path, trust(key))
    inputs = open_inputs(library, guest_entry(library, "web"), InputStore(), directory / "v")
    # Then every input is there, the ROMs by the names that they load as
    assert inputs.initrd is not None
    assert os.pread(inputs.initrd.descriptor, 10, 0) == b"initrd"
    assert sorted(inputs.roms) == ["kvmvapic.bin", "linuxboot_dma.bin"]
    inputs.close()


def test_a_library_that_nobody_trusted_signed_is_refused(directory: Path) -> None:
    # Given a library signed by somebody
    path = sign(directory, new_key(), {"web": guest(directory)})
    # When it is opened with another key
    with pytest.raises(Refused) as refused:
        open_library(path, trust(new_key()))
    # Then it is refused
    assert refused.value.code == "TDM-ENVELOPE-NOT-SIGNED"


def test_a_host_without_read_trust_opens_no_library(directory: Path) -> None:
    # Given a signed library and no key
    path = sign(directory, new_key(), {})
    # When it is opened
    with pytest.raises(Refused) as refused:
        open_library(path, trust())
    # Then it says what is missing
    assert refused.value.code == "TDM-LIBRARY-NO-KEY"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"payload": 1}', bytes(100)])
def test_a_damaged_library_is_refused(directory: Path, content: bytes) -> None:
    # Given a file that is no envelope
    path = directory / "library.dsse.json"
    path.write_bytes(content)
    # When it is opened
    # Then it is refused as what it is
    with pytest.raises(UntrustedInput):
        open_library(path, trust(new_key()))


def test_a_missing_library_says_how_to_make_one(tmp_path: Path) -> None:
    # Given a host without a library
    # When it is opened
    with pytest.raises(HostError) as failed:
        open_library(tmp_path / "library.dsse.json", trust())
    # Then the hint names the command
    assert "library sign" in failed.value.hint


def test_a_path_that_no_file_can_have_is_a_missing_library_and_no_defect(tmp_path: Path) -> None:
    # Given a path with a name longer than file systems allow
    path = tmp_path / ("long" * 100)
    # When it is opened
    with pytest.raises(HostError) as refused:
        open_library(path, trust(new_key()))
    # Then the host's error says so: anything else would end the builder
    assert refused.value.code == "TDM-LIBRARY-MISSING"


def test_an_unknown_entry_is_refused_with_those_that_exist(directory: Path) -> None:
    # Given a library with one guest
    key = new_key()
    library = open_library(sign(directory, key, {"web": guest(directory)}), trust(key))
    # When another is asked for
    with pytest.raises(UsageError) as refused:
        guest_entry(library, "mail")
    # Then the hint names the one
    assert "web" in refused.value.hint


def test_a_part_of_the_host_that_differs_stops_every_start(directory: Path) -> None:
    # Given a library that names a part of the host, which then changes
    key = new_key()
    (directory / "manager.py").write_bytes(b"as signed")
    once = {"kind": "build-once", "role": "manager", "files": [file(directory, "manager.py")]}
    entries = {"web": guest(directory), "manager": once}
    library = open_library(sign(directory, key, entries), trust(key))
    check_built_once(library, InputStore())
    (directory / "manager.py").write_bytes(b"as hacked")
    # When it is checked
    with pytest.raises(Refused) as refused:
        check_built_once(library, InputStore())
    # Then it is refused
    assert refused.value.code == "TDM-INPUT-DIFFERS"


def test_a_key_that_others_may_change_is_not_trusted(tmp_path: Path) -> None:
    # Given a trusted key that everybody may write to
    key = tmp_path / "someone.pub"
    key.write_bytes(public_pem(new_key()))
    key.chmod(0o666)
    # When keys are read
    with pytest.raises(Refused) as refused:
        read_trust(tmp_path)
    # Then it is refused, not passed over
    assert refused.value.code == "TDM-LIBRARY-KEY-WRITABLE"


@pytest.mark.parametrize("name", [".", "someone.pub", "trust.toml"])
def test_what_belongs_to_somebody_else_is_not_trusted(tmp_path: Path, name: str) -> None:
    # Given a key and a threshold that root's alone may change, but one of them is another user's
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "someone.pub").write_bytes(public_pem(new_key()))
    (folder / "trust.toml").write_text("threshold = 1\n")
    os.chown(folder / name, 65534, 0)
    # When keys are read
    with pytest.raises(Refused) as refused:
        read_trust(folder)
    # Then it is refused
    assert refused.value.code == "TDM-LIBRARY-KEY-WRITABLE"


def test_a_folder_of_keys_that_others_may_change_is_not_trusted(tmp_path: Path) -> None:
    # Given a trusted key and a threshold of root's, in a folder that everybody may take files from
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "someone.pub").write_bytes(public_pem(new_key()))
    (folder / "trust.toml").write_text("threshold = 1\n")
    read_trust(folder)
    folder.chmod(0o777)
    # When it is read
    with pytest.raises(Refused) as refused:
        read_trust(folder)
    # Then it is refused: without its threshold one key would be enough
    assert refused.value.code == "TDM-LIBRARY-KEY-WRITABLE"


def test_one_bad_input_opens_none(directory: Path) -> None:
    # Given an entry whose last input is missing
    key = new_key()
    library = open_library(sign(directory, key, {"web": guest(directory)}), trust(key))
    (directory / "linuxboot_dma.bin").unlink()
    store, before = InputStore(max_kept=0), len(os.listdir("/proc/self/fd"))
    # When its inputs are opened
    with pytest.raises(HostError):
        open_inputs(library, guest_entry(library, "web"), store, directory / "v")
    store.close()
    # Then none stays open
    assert len(os.listdir("/proc/self/fd")) == before
