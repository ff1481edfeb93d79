"""A host with a TPM that its firmware measured into: it is driven, and never extended or cleared.

The device is a stand-in: an swtpm over a socketpair, opened where `/dev/tpm0` would be.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.errors import HostError, Refused
from tandem.manager import host as host_module
from tandem.manager.host import initialise, open_host, reach_ptpm
from tandem.manager.identity import read_identity
from tandem.manager.ptpm import Ptpm
from tandem.settings import HostPaths

DEVICE = "/dev/tpm0"
FIRMWARE = (0, 7)
NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Give a TPM that firmware started and measured into, opened wherever DEVICE is named."""
    state = tmp_path / "tpm"
    state.mkdir()
    ours, theirs = socket.socketpair()
    command = ["swtpm", "socket", "--tpm2", "--fd", str(theirs.fileno()), "--terminate"]
    options = ["--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], pass_fds=[theirs.fileno()], stdout=log, stderr=log
        )
    theirs.close()
    firmware = Ptpm(ours.fileno())
    for register in FIRMWARE:
        firmware.pcr_extend(register, hashlib.sha256(b"firmware").digest())
    monkeypatch.setattr(host_module, "_open_device", lambda _: os.dup(ours.fileno()))
    yield ours.fileno()
    process.terminate()
    process.wait(10)
    ours.close()


def paths(directory: Path) -> HostPaths:
    """Give the directories of a new host."""
    host = HostPaths(directory)
    for path in (host.root, host.manager):
        path.mkdir()
    return host


def chain_index_is_there(device: int) -> bool:
    return Ptpm(device)._has_chain_index()


def test_a_host_on_hardware_is_made_and_opened(device: int, tmp_path: Path) -> None:
    # Given a machine with a TPM
    new = paths(tmp_path / "host")
    before = Ptpm(device).read_pcrs(range(24))
    # When a host is made on it, and opened, twice, without closing it in between
    initialise(new, DEVICE, FIRMWARE, NOW)
    identity = read_identity(new.manager / "identity.cbor")
    for _ in range(2):
        opened = open_host(new, identity, reach_ptpm(new, identity.ptpm))
    # Then it says that it has a hardware root, and quotes what the firmware measured
    assert opened.hardware_root
    quoted = opened.ptpm.quote(bytes(32), identity.registers)
    assert sorted(quoted.pcrs) == list(FIRMWARE)
    # And the Manager extended nothing
    assert opened.ptpm.read_pcrs(range(24)) == before


def test_a_tpm_anchors_one_host(device: int, tmp_path: Path) -> None:
    # Given a host on a machine's TPM
    first = paths(tmp_path / "first")
    initialise(first, DEVICE, FIRMWARE, NOW)
    # When another is made on it
    with pytest.raises(Refused) as raised:
        initialise(paths(tmp_path / "second"), DEVICE, FIRMWARE, NOW)
    # Then it is refused, and the first is as it was
    assert raised.value.code == "TDM-PTPM-OF-ANOTHER-HOST"
    identity = read_identity(first.manager / "identity.cbor")
    assert open_host(first, identity, reach_ptpm(first, DEVICE)).hardware_root


def test_an_attempt_that_fails_leaves_the_tpm_as_it_was(device: int, tmp_path: Path) -> None:
    # Given a place where no store can be made
    new = paths(tmp_path / "host")
    (new.manager / "store.sqlite").write_bytes(b"in the way")
    # When a host is made there
    with pytest.raises(HostError):
        initialise(new, DEVICE, FIRMWARE, NOW)
    # Then its anchor is taken away again, and the next attempt succeeds
    assert not chain_index_is_there(device)
    (new.manager / "store.sqlite").unlink()
    initialise(new, DEVICE, FIRMWARE, NOW)
    assert chain_index_is_there(device)


def test_a_register_that_firmware_did_not_use_is_refused(device: int, tmp_path: Path) -> None:
    # Given a register that is still zero
    # When a host is to be sealed to it
    with pytest.raises(Refused) as raised:
        initialise(paths(tmp_path / "host"), DEVICE, (0, 16), NOW)
    # Then it is refused, and nothing is left in the TPM
    assert raised.value.code == "TDM-SEAL-UNMEASURED-PCR"
    assert not chain_index_is_there(device)


def test_firmware_that_changed_does_not_get_the_master_key(device: int, tmp_path: Path) -> None:
    # Given a host, and firmware that measures something else
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW)
    Ptpm(device).pcr_extend(7, hashlib.sha256(b"other firmware").digest())
    # When it starts
    identity = read_identity(new.manager / "identity.cbor")
    with pytest.raises(Refused) as raised:
        open_host(new, identity, reach_ptpm(new, DEVICE))
    # Then it is refused, and the error names the register
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"
    assert "PCR 7 changed" in raised.value.problem
