"""The vTPM proxy: absent it has a code of its own; its numbers are those of linux/vtpm_proxy.h."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import HostError
from tandem.hypervisor.vtpm_proxy import NEW_DEVICE, REQUEST, new_device, open_proxy


def test_a_kernel_without_the_proxy_is_told_how_to_load_it(tmp_path: Path) -> None:
    # Given no /dev/vtpmx
    # When it is opened
    with pytest.raises(HostError) as absent:
        open_proxy(tmp_path / "vtpmx")
    # Then the error is its own, and names the module
    assert absent.value.code == "TDM-HOST-VTPMX-ABSENT"
    assert "modprobe tpm_vtpm_proxy" in absent.value.hint


def test_something_else_in_its_place_makes_no_device(tmp_path: Path) -> None:
    # Given a plain file in the proxy's place
    (tmp_path / "vtpmx").touch()
    proxy = open_proxy(tmp_path / "vtpmx")
    # When a device is made
    with pytest.raises(HostError) as unusable:
        new_device(proxy)
    # Then that is another error
    assert unusable.value.code == "TDM-HOST-VTPMX-UNUSABLE"


def test_the_request_is_the_kernels() -> None:
    # Given _IOWR(0xa1, 0x00, struct vtpm_proxy_new_dev), of five 32-bit fields
    direction, kind, number = 3, 0xA1, 0
    # When it is computed as asm-generic/ioctl.h does
    computed = direction << 30 | REQUEST.size << 16 | kind << 8 | number
    # Then it is ours
    assert computed == NEW_DEVICE
