"""`tandem library predict` and what signing writes: for guests with Debian's OVMF."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.evidence.prediction import REGISTERS

OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
pytestmark = pytest.mark.skipif(not OVMF.exists(), reason="ovmf is not installed")
SOURCE = """
[entries.handed]
boot = "uefi"
kernel = "kernel"
machine.memory_mib = 512

[entries.lost]
boot = "uefi"
machine.memory_mib = 512
disks = [{id = "scratch", kind = "data", path = "scratch.img"}]

[entries.direct]
kernel = "kernel"
initrd = "kernel"
command_line = "quiet"
"""


def tandem(host: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tandem", "--host", host, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A library whose kernel is an EFI application that nothing is known of."""
    kernel = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
    (tmp_path / "kernel").write_bytes(kernel.read_bytes())
    (tmp_path / "library.toml").write_text(SOURCE)
    tandem(tmp_path, "library", "keygen", "-o", tmp_path / "key")
    done = tandem(tmp_path, "library", "sign", tmp_path / "library.toml", "--key", tmp_path / "key")
    assert done.returncode == 0, done.stderr
    assert "lost: PCR 4, 5, 8" in done.stderr  # the signer is told what stays in doubt
    return tmp_path / "library.dsse.json"


def predict(manifest: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    key = manifest.parent / "key.pub"
    more = ("--manifest", manifest, "--library-key", key)
    return tandem(manifest.parent, "library", "predict", *arguments, *more)


def test_each_register_has_a_value_or_a_reason(signed: Path) -> None:
    # Given a signed library with a guest that boots a disk which nothing vouches for
    # When it is predicted
    done = predict(signed, "lost", "--json", "--events")
    found = json.loads(done.stdout)

    # Then the firmware's registers have values, and the others say why they have none
    assert found["signed"] is True
    assert found["registers"].keys() | found["unpredicted"].keys() == set(map(str, REGISTERS))
    assert len(found["registers"]["0"]) == 10
    assert "nothing vouches for" in found["unpredicted"]["4"]
    assert {event["register"] for event in found["events"]} >= {0, 1, 7}


def test_a_kernel_that_the_firmware_passes_over_leaves_its_options_open(signed: Path) -> None:
    # Given a guest that is handed a loader of which nothing is known
    # When it is predicted
    found = json.loads(predict(signed, "handed", "--json").stdout)

    # Then what comes after it is not, with the reason
    assert {"4", "9", "11"} <= found["unpredicted"].keys()
    assert "not known here" in found["unpredicted"]["4"]


def test_the_other_bank_has_longer_values(signed: Path) -> None:
    # Given a signed library
    # When a guest is predicted in SHA-384
    done = predict(signed, "handed", "--json", "--bank", "sha384")

    # Then each value has 48 bytes
    values = json.loads(done.stdout)["registers"].values()
    assert {len(each) for value in values for each in value} == {96}


@pytest.mark.parametrize(
    ("entry", "code"), [("direct", "TDM-PREDICT-NO-UEFI"), ("none", "TDM-ENTRY-UNKNOWN")]
)
def test_what_has_no_prediction_is_refused_by_name(signed: Path, entry: str, code: str) -> None:
    # Given a signed library
    # When something is predicted that does not boot by UEFI, or is not there
    done = predict(signed, entry)

    # Then it is a usage error
    assert done.returncode == 2
    assert code in done.stderr


def test_a_file_that_changed_since_it_was_signed_is_refused(signed: Path) -> None:
    # Given a kernel that is another by now
    (signed.parent / "kernel").write_bytes(b"MZ" + bytes(100))

    # When its guest is predicted
    done = predict(signed, "handed")

    # Then it is refused
    assert done.returncode == 5
    assert "TDM-INPUT-DIFFERS" in done.stderr


def test_firmware_that_is_none_is_refused_when_it_is_signed(tmp_path: Path) -> None:
    # Given an entry whose firmware is something else
    (tmp_path / "firmware").write_bytes(bytes(4096))
    entry = '[entries.web]\nboot = "uefi"\nfirmware = "firmware"\nkernel = "firmware"\n'
    (tmp_path / "library.toml").write_text(entry)
    tandem(tmp_path, "library", "keygen", "-o", tmp_path / "key")

    # When the library is signed
    done = tandem(tmp_path, "library", "sign", tmp_path / "library.toml", "--key", tmp_path / "key")

    # Then it is refused with what was expected, and nothing was signed
    assert done.returncode == 4
    assert "entries.web: firmware image" in done.stderr
    assert "OVMF" in done.stderr
    assert not (tmp_path / "library.dsse.json").exists()
