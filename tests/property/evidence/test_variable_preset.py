"""Presetting boot entries is total: any store gives one that is read back, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import UntrustedInput, UsageError
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.variable_preset import preset_boot
from tandem.evidence.variable_store import parse_variable_store

STORE = Path("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")
USED = 24 * 1024  # bytes at the beginning that hold all there is
LOADER = "\\EFI\\BOOT\\BOOTX64.EFI"


@pytest.mark.skipif(not STORE.exists(), reason="OVMF is not installed")
@given(
    changes=st.lists(st.tuples(st.integers(0, USED), st.binary(min_size=1, max_size=8)), max_size=8)
)
def test_a_damaged_store_is_refused_or_still_read(changes: list[tuple[int, bytes]]) -> None:
    # Given a store with bytes changed anywhere
    store = bytearray(STORE.read_bytes())
    for offset, content in changes:
        store[offset : offset + len(content)] = content
    # When a boot entry is preset
    try:
        made = preset_boot(bytes(store), [LOADER])
    except (UntrustedInput, UsageError):
        return
    # Then the store has its size, and the entry is in it
    assert len(made) == len(store)
    read = parse_variable_store(made)
    assert read.read(EFI_GLOBAL_VARIABLE, "BootOrder") == b"\0\0"


@given(data=st.binary(max_size=4096), path=st.text(max_size=40))
def test_bytes_that_are_no_store_are_refused(data: bytes, path: str) -> None:
    # Given any bytes and any text
    # When they are taken for a store and a path
    # Then they are refused as what they are
    with pytest.raises((UntrustedInput, UsageError)):
        preset_boot(data, [path])
