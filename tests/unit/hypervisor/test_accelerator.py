"""Which accelerator: only an answer that was given counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandem.hypervisor import accelerator


@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [(0o666, 0, ()), (0o660, 1234, (1234,)), (0o660, 0, None), (0o600, 1234, None)],
)
def test_the_groups_follow_the_devices_mode(
    tmp_path: Path, mode: int, group: int, expected: tuple[int, ...] | None
) -> None:
    # Given a device of some owner and mode
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    if os.geteuid() != 0:
        pytest.skip("changing a group needs root")
    os.chown(device, 0, group)
    # When a process without privilege wants it
    # Then it gets the group it needs, or none can help it
    assert accelerator.device_groups(device) == expected


def test_a_host_without_the_device_uses_tcg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given no /dev/kvm
    monkeypatch.setattr(accelerator.device_groups, "__defaults__", (tmp_path / "none",))
    # When a hypervisor is probed
    # Then nothing is started for it
    assert accelerator.probe(tmp_path / "no-qemu", "max", 65534) == "tcg"


def test_a_hypervisor_that_does_not_start_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a device that everybody may open, and no QEMU
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o666)
    monkeypatch.setattr(accelerator.device_groups, "__defaults__", (device,))
    # When it is probed
    # Then TCG is the answer
    assert accelerator.probe(tmp_path / "no-qemu", "max", 65534) == "tcg"
