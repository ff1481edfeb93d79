"""Boot entries preset in a variable store: read back as written, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import UntrustedInput, UsageError
from tandem.evidence.boot_options import FILE_PATH, parse_load_option
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.variable_preset import preset_boot
from tandem.evidence.variable_store import parse_variable_store

OVMF = Path("/usr/share/OVMF")
STORES = ("OVMF_VARS_4M.fd", "OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.snakeoil.fd")
LOADER, OTHER = "\\EFI\\BOOT\\BOOTX64.EFI", "\\EFI\\debian\\shimx64.efi"
pytestmark = pytest.mark.skipif(not OVMF.exists(), reason="OVMF is not installed")


@pytest.mark.parametrize("name", STORES)
def test_boot_entries_are_preset_and_all_else_stays(name: str) -> None:
    # Given a store of Debian's
    store = (OVMF / name).read_bytes()
    before = parse_variable_store(store)
    # When two boot entries are preset
    made = preset_boot(store, [LOADER, OTHER])
    # Then they are all of its boot entries, in that order
    after = parse_variable_store(made)
    entries = {key[1] for key in after.variables if key[1].startswith("Boot0")}
    assert entries == {"Boot0000", "Boot0001"}
    assert after.read(EFI_GLOBAL_VARIABLE, "BootOrder") == b"\0\0\1\0"
    option = parse_load_option(after.read(EFI_GLOBAL_VARIABLE, "Boot0001"))
    assert option.boots
    assert option.nodes == ((FILE_PATH, (OTHER + "\0").encode("utf-16-le")),)
    # And the rest is as it was, keys and Secure Boot among it
    others = {key: data for key, data in before.variables.items() if not key[1].startswith("Boot0")}
    assert {key: after.variables[key] for key in others} == others
    assert (len(made), after.secure_boot) == (len(store), before.secure_boot)


def test_a_preset_can_be_made_anew() -> None:
    # Given a store with a boot entry
    once = preset_boot((OVMF / STORES[0]).read_bytes(), [LOADER])
    # When another is preset
    twice = parse_variable_store(preset_boot(once, [OTHER]))
    # Then only that one is left
    data = twice.read(EFI_GLOBAL_VARIABLE, "Boot0000")
    assert parse_load_option(data).description == OTHER
    assert twice.read(EFI_GLOBAL_VARIABLE, "BootOrder") == b"\0\0"


@pytest.mark.parametrize(
    "path",
    ["", "EFI\\BOOT\\BOOTX64.EFI", "/EFI/BOOT/BOOTX64.EFI", "\\EFI\\", "\\a\nb", "\\ä", "\\" * 300],
)
def test_what_is_no_path_of_a_program_is_refused(path: str) -> None:
    # Given a store, and a path that leads to no program on a system partition
    # When it is preset
    # Then it is refused, with an example of how to write one
    with pytest.raises(UsageError) as refused:
        preset_boot((OVMF / STORES[0]).read_bytes(), [path])
    assert refused.value.code == "TDM-UEFI-PATH"


def test_more_entries_than_fit_are_refused() -> None:
    # Given a store, and more entries than its flash takes
    paths = [f"\\EFI\\{'x' * 200}\\{number}.efi" for number in range(1000)]
    # When they are preset
    # Then the store is not written over its end
    with pytest.raises(UsageError) as refused:
        preset_boot((OVMF / STORES[0]).read_bytes(), paths)
    assert refused.value.code == "TDM-UEFI-STORE-FULL"


@pytest.mark.parametrize("store", [b"", bytes(540672), b"\xff" * 540672])
def test_what_is_no_store_is_refused(store: bytes) -> None:
    # Given bytes that are no variable store
    # When a boot entry is preset in it
    # Then they are refused
    with pytest.raises(UntrustedInput):
        preset_boot(store, [LOADER])
