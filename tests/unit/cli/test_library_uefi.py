"""UEFI guests in a library's source: what is filled in, and boot entries preset."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.cli.library_files import LibraryFiles
from tandem.cli.library_source import manifest
from tandem.errors import HostError, UntrustedInput
from tandem.evidence.boot_options import parse_load_option
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.strict_toml import parse_toml
from tandem.evidence.variable_store import parse_variable_store

OVMF = Path("/usr/share/OVMF")
DISK = '[[entries.a.disks]]\nid = "system"\nkind = "image"\npath = "system.img"\n'
pytestmark = pytest.mark.skipif(not OVMF.exists(), reason="OVMF is not installed")


def entry(directory: Path, text: str, *, copies: bool = True) -> dict[str, object]:
    """Give the manifest's entry that is made of this source."""
    (directory / "system.img").write_bytes(b"disk")
    (directory / "uki.efi").write_bytes(b"kernel")
    source = parse_toml(
        f'[entries.a]\nboot = "uefi"\n{text}'.encode(), "library.toml", "TDM-BAD", 4096
    )
    files = LibraryFiles(directory=directory, copies=copies)
    entries = manifest(source, files, 1)["entries"]
    assert isinstance(entries, dict)
    found: dict[str, object] = entries["a"]
    return found


def first_option(directory: Path, boot: object) -> bytes:
    """Read the first boot entry of the store that an entry has."""
    assert isinstance(boot, dict)
    store = parse_variable_store((directory / boot["variables"]["path"]).read_bytes())
    return store.read(EFI_GLOBAL_VARIABLE, "Boot0000")


@pytest.mark.parametrize(
    ("wishes", "program"),
    [
        ("", r"\EFI\BOOT\BOOTX64.EFI"),
        (r"boot_entries = ['\EFI\debian\shimx64.efi']" + "\n", r"\EFI\debian\shimx64.efi"),
    ],
)
def test_boot_entries_are_preset(tmp_path: Path, wishes: str, program: str) -> None:
    # Given a guest that boots from a disk
    # When its entry is made
    boot = entry(tmp_path, wishes + DISK)["boot"]
    # Then its variables are a store in the library that names the loader
    assert parse_load_option(first_option(tmp_path, boot)).description == program


@pytest.mark.parametrize("secure", [True, False])
def test_firmware_and_keys_fit_together(tmp_path: Path, secure: bool) -> None:
    # Given a guest with or without Secure Boot, and nothing said of firmware and variables
    # When its entry is made
    boot = entry(tmp_path, f"secure_boot = {str(secure).lower()}\n{DISK}")["boot"]
    # Then both are Debian's for this, and the ROM is the one that loads without a kernel
    assert isinstance(boot, dict)
    assert ("secboot" in boot["firmware"]["path"]) is secure
    assert ("VARS_4M.ms" in boot["variables"]["path"]) is secure
    assert [Path(each["path"]).name for each in boot["roms"]] == ["kvmvapic.bin"]


def test_a_kernel_that_is_handed_over_needs_no_boot_entry(tmp_path: Path) -> None:
    # Given a guest whose UKI is handed to the firmware
    # When its entry is made
    boot = entry(tmp_path, 'kernel = "uki.efi"\n')["boot"]
    # Then its variables are Debian's as they are
    assert first_option(tmp_path, boot) == b""


def test_nothing_is_written_where_only_a_look_is_asked_for(tmp_path: Path) -> None:
    # Given a source that is read for a comparison
    # When its entry is made
    boot = entry(tmp_path, DISK, copies=False)["boot"]
    # Then the digests are those that a signature would cover, and no copy is made
    assert not (tmp_path / "blobs").exists()
    assert boot == entry(tmp_path, DISK)["boot"]


@pytest.mark.parametrize(
    ("wishes", "place"),
    [
        ("boot_entries = 'x'", "$.entries.a.boot_entries"),
        ("boot_entries = [1]", "$.entries.a.boot_entries.0"),
        ("boot_entries = ['EFI/BOOT']", "$.entries.a.boot_entries.0"),
        ("boot_entries = ['\\a\\']", "$.entries.a.boot_entries.0"),
        ("variables = 1", "$.entries.a.variables"),
    ],
)
def test_a_wrong_wish_is_refused_by_its_place(tmp_path: Path, wishes: str, place: str) -> None:
    # Given a source with one wish wrong
    # When its entry is made
    with pytest.raises(UntrustedInput) as refused:
        entry(tmp_path, f"{wishes}\n{DISK}")
    # Then the refusal names the place
    assert f" {place}: " in refused.value.problem


@pytest.mark.parametrize(
    ("path", "code"), [("/nonexistent", "TDM-INPUT-UNREADABLE"), ("system.img", "TDM-")]
)
def test_what_is_no_store_is_refused(tmp_path: Path, path: str, code: str) -> None:
    # Given a source whose variables are no store of any
    # When its entry is made
    with pytest.raises((HostError, UntrustedInput)) as refused:
        entry(tmp_path, f'variables = "{path}"\n{DISK}')
    # Then it is refused
    assert refused.value.code.startswith(code)
