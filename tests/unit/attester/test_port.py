"""Finding the virtio-serial port by its name, as the kernel lists it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.attester.failure import AttesterError
from tandem.attester.port import find_port


def test_the_port_is_found_by_its_name(tmp_path: Path) -> None:
    # Given a guest with two ports
    for device, name in (
        ("vport0p1", "org.qemu.guest_agent.0"),
        ("vport0p2", "org.tandem.attester"),
    ):
        (tmp_path / device).mkdir()
        (tmp_path / device / "name").write_text(f"{name}\n")

    # When the attester looks for its own
    # Then it gets that one's device file
    assert find_port(ports=str(tmp_path)) == "/dev/vport0p2"


def test_a_guest_without_the_port_is_told(tmp_path: Path) -> None:
    # Given a guest without virtio-serial
    # When the attester looks for its port
    # Then the error names it
    with pytest.raises(AttesterError) as caught:
        find_port(ports=str(tmp_path / "virtio-ports"), patience=0.0)
    assert caught.value.code == "TDM-ATTESTER-NO-PORT"
