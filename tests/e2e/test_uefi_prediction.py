"""A kernel by fw_cfg measures what was predicted, though QEMU writes to it on the way."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.appraisal.firmware import appraise_firmware
from tandem.appraisal.verdict import Tier
from tandem.cli.library_sign import make_payload
from tandem.evidence.guest_entry import GuestEntry, UefiBoot
from tandem.evidence.manifest import parse_manifest
from tandem.evidence.prediction import REGISTERS
from tests.e2e.uefi_host import FIRMWARE
from tests.e2e.uefi_machine import booted, firmware_log, registers
from tests.integration.builder.running_host import IMAGE

COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr lpj=4000000"
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SOURCE = f"""
[entries.handed]
boot = "uefi"
kernel = "vmlinuz"
initrd = "initramfs.cpio"
command_line = "{COMMAND_LINE}"
machine = {{memory_mib = 512, cpus = 2}}
"""
pytestmark = pytest.mark.skipif(not FIRMWARE.exists(), reason="ovmf is not installed")


@pytest.fixture
def library() -> Iterator[Path]:
    """A folder with a kernel and an initrd, and a source that names them."""
    folder = Path(tempfile.mkdtemp(prefix="tandem-uefi-", dir="/var/tmp"))
    for name in ("vmlinuz", "initramfs.cpio"):
        shutil.copy(IMAGE / name, folder)
    (folder / "library.toml").write_text(SOURCE)
    yield folder
    shutil.rmtree(folder)


def test_a_kernel_by_fw_cfg_measures_what_was_predicted(library: Path, tmp_path: Path) -> None:
    # Given a guest with two CPUs that was predicted before it was first booted
    payload = make_payload(library / "library.toml", 1, ["ab" * 32], NOW)
    entry = parse_manifest(payload).entries["handed"]
    assert isinstance(entry, GuestEntry)
    assert isinstance(entry.boot, UefiBoot)
    prediction = entry.boot.prediction
    assert prediction is not None

    # When it has booted, on the builder's machine with a plain swtpm
    with booted(entry, library, tmp_path) as console:
        values, log = registers(console, REGISTERS), firmware_log(console)

    # Then every register of firmware and kernel is as predicted, and the log says the same
    assert {index: values[index] in prediction.values(index) for index in REGISTERS} == (
        dict.fromkeys(REGISTERS, True)
    )
    findings = appraise_firmware(prediction, values, log, None)
    assert {each.tier for each in findings} == {Tier.AFFIRMING}
