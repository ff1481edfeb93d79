"""A host with a TPM that its firmware measured into: it is driven, and never extended or cleared.

The device is a stand-in: an swtpm over a socketpair, opened where `/dev/tpm0` would be.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.errors import HostError, Refused, TandemError
from tandem.evidence.host_approval import approve
from tandem.evidence.host_state import HostState, StateDocument
from tandem.evidence.pcr_values import extend
from tandem.manager import host as host_module
from tandem.manager.changes import bring_in
from tandem.manager.host import initialise, open_host, open_master, reach_ptpm
from tandem.manager.identity import read_identity, write_identity
from tandem.manager.ptpm import Ptpm
from tandem.manager.rotation import next_terms, renew
from tandem.manager.tcti import PtpmFailed
from tandem.manager.tpm_templates import KeyBlob
from tandem.settings import HostPaths
from tandem.values import Secret
from tandem.wire import tpm_commands

DEVICE = "/dev/tpm0"
FIRMWARE = (0, 7)
KEY = ec.generate_private_key(ec.SECP256R1())
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
        firmware.measure(register, b"firmware")
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


def holds_a_host(device: int) -> bool:
    return Ptpm(device).holds_a_host()


def test_a_host_on_hardware_is_made_and_opened(device: int, tmp_path: Path) -> None:
    # Given a machine with a TPM
    new = paths(tmp_path / "host")
    before = Ptpm(device).read_pcrs(range(24))
    # When a host is made on it, and opened, twice, without closing it in between
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    identity = read_identity(new.manager / "identity.cbor")
    for _ in range(2):
        opened = open_host(new, identity, reach_ptpm(new, identity.ptpm), lambda: NOW)
    # Then it says that it has a hardware root, and quotes what the firmware measured
    assert opened.hardware_root
    quoted = opened.ptpm.quote(bytes(32), identity.registers)
    assert sorted(quoted.pcrs) == list(FIRMWARE)
    # And the Manager extended nothing
    assert opened.ptpm.read_pcrs(range(24)) == before


def test_a_tpm_anchors_one_host(device: int, tmp_path: Path) -> None:
    # Given a host on a machine's TPM
    first = paths(tmp_path / "first")
    initialise(first, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    # When another is made on it
    with pytest.raises(Refused) as raised:
        initialise(paths(tmp_path / "second"), DEVICE, FIRMWARE, NOW, approval_key=KEY)
    # Then it is refused, and the first is as it was
    assert raised.value.code == "TDM-PTPM-OF-ANOTHER-HOST"
    identity = read_identity(first.manager / "identity.cbor")
    assert open_host(first, identity, reach_ptpm(first, DEVICE), lambda: NOW).hardware_root


def test_an_attempt_that_fails_leaves_the_tpm_as_it_was(device: int, tmp_path: Path) -> None:
    # Given a place where no store can be made
    new = paths(tmp_path / "host")
    (new.manager / "store.sqlite").write_bytes(b"in the way")
    # When a host is made there
    with pytest.raises(HostError):
        initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    # Then its anchor is taken away again, and the next attempt succeeds
    assert not holds_a_host(device)
    (new.manager / "store.sqlite").unlink()
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    assert holds_a_host(device)


def test_a_register_that_firmware_did_not_use_is_refused(device: int, tmp_path: Path) -> None:
    # Given a register that is still zero
    # When a host is to be sealed to it
    with pytest.raises(Refused) as raised:
        initialise(paths(tmp_path / "host"), DEVICE, (0, 16), NOW, approval_key=KEY)
    # Then it is refused, and nothing is left in the TPM
    assert raised.value.code == "TDM-SEAL-UNMEASURED-PCR"
    assert not holds_a_host(device)


def test_firmware_that_changed_does_not_get_the_master_key(device: int, tmp_path: Path) -> None:
    # Given a host, and firmware that measures something else
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    Ptpm(device).measure(7, b"other firmware")
    # When it starts
    identity = read_identity(new.manager / "identity.cbor")
    with pytest.raises(Refused) as raised:
        open_host(new, identity, reach_ptpm(new, DEVICE), lambda: NOW)
    # Then it is refused, and the error names the register
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"
    assert "PCR 7 changed" in raised.value.problem


def test_firmware_that_was_approved_before_its_boot_opens_the_host(
    device: int, tmp_path: Path
) -> None:
    # Given a host, and an approval of what the next firmware will measure into PCR 7
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    banks = {bank: dict(values) for bank, values in Ptpm(device).read_state(FIRMWARE).banks.items()}
    for bank, values in banks.items():
        digest = hashlib.new(bank, b"next firmware").digest()
        values[7] = extend(values[7], digest, bank)
    coming = StateDocument(subject="host", generation=1, state=HostState(banks=banks))
    bring_in(new, approve(coming, KEY))
    # When that firmware is booted
    Ptpm(device).measure(7, b"next firmware")
    # Then the host opens, in both banks
    identity = read_identity(new.identity)
    assert open_host(new, identity, reach_ptpm(new, DEVICE), lambda: NOW).hardware_root
    assert set(banks) == {"sha256", "sha384"}


def test_a_bank_that_firmware_forgot_is_refused(device: int, tmp_path: Path) -> None:
    # Given a register that firmware extended in the SHA-256 bank alone
    extending = tpm_commands.pcr_extend(5, {tpm_commands.SHA256: bytes(32)})
    Ptpm(device).tcti.transceive(extending)
    # When a host is to be sealed to it
    with pytest.raises(Refused) as raised:
        initialise(paths(tmp_path / "host"), DEVICE, (0, 5), NOW, approval_key=KEY)
    # Then it is refused: whoever extends the other bank would make any state of it
    assert raised.value.code == "TDM-SEAL-UNMEASURED-PCR"
    assert "PCR 5" in raised.value.problem


def test_what_differs_in_one_bank_alone_opens_nothing(device: int, tmp_path: Path) -> None:
    # Given a host
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    # When PCR 7 is extended in the SHA-384 bank, which no quote shows
    extending = tpm_commands.pcr_extend(7, {tpm_commands.SHA384: bytes(48)})
    Ptpm(device).tcti.transceive(extending)
    # Then the host does not open
    with pytest.raises(Refused) as raised:
        open_host(new, read_identity(new.identity), reach_ptpm(new, DEVICE), lambda: NOW)
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"


def test_an_approval_key_of_somebody_else_approves_even_the_first_state(
    device: int, tmp_path: Path
) -> None:
    # Given a host that was made with a public key alone
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY.public_key())
    identity = read_identity(new.identity)
    with pytest.raises(Refused) as raised:
        open_host(new, identity, reach_ptpm(new, DEVICE), lambda: NOW)
    assert raised.value.code == "TDM-HOST-STATE-NOT-APPROVED"
    # When whoever has the private one approves it
    present = Ptpm(device).read_state(FIRMWARE)
    bring_in(new, approve(StateDocument(subject="host", generation=1, state=present), KEY))
    # Then it opens
    assert open_host(new, identity, reach_ptpm(new, DEVICE), lambda: NOW).hardware_root


def test_an_exchanged_approval_key_opens_nothing(device: int, tmp_path: Path) -> None:
    # Given a host, and an attacker who writes his own approval key and approvals to its disk
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    mallory = ec.generate_private_key(ec.SECP256R1())
    der = mallory.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    exchanged = replace(read_identity(new.identity), approval_key=der)
    write_identity(new.identity, exchanged)
    present = Ptpm(device).read_state(FIRMWARE)
    bring_in(new, approve(StateDocument(subject="host", generation=1, state=present), mallory))
    # When the host starts
    with pytest.raises(Refused) as raised:
        open_host(new, exchanged, reach_ptpm(new, DEVICE), lambda: NOW)
    # Then the pTPM does not unseal for him
    assert raised.value.code == "TDM-SEALED-FOR-ANOTHER-STATE"


@pytest.mark.parametrize("step", ["install", "place_identity", "Store.copied", "seal_generation"])
def test_a_new_master_key_that_fails_leaves_the_host_as_it_was(
    device: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    # Given an open host, and a disk or a pTPM that fails at a step of a new master key
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    identity = read_identity(new.identity)
    host = open_host(new, identity, reach_ptpm(new, DEVICE), lambda: NOW)
    master = open_master(new, identity, host.ptpm)
    terms = next_terms(identity, KEY)
    approvals = terms.approvals(host.ptpm.read_state(FIRMWARE))

    def renewed() -> int:
        made, _ = renew(
            new,
            host.ptpm,
            host.store,
            identity=identity,
            master=master,
            terms=terms,
            approvals=approvals,
        )
        return made.generation

    # When one is to be made
    with monkeypatch.context() as patched:
        patched.setattr(f"tandem.manager.rotation.{step}", no_space)
        with pytest.raises(HostError) as raised:
            renewed()
    # Then it is refused, and the host goes on quoting, writing and starting
    assert raised.value.code == "TDM-HOST-NOT-RENEWED"
    assert host.ptpm.quote(bytes(32), FIRMWARE).attest
    host.store.stage("note", b"after the failure")
    host.store.commit()
    assert renewed() == 2
    host.store.stage("note", b"after the second attempt")
    host.store.commit()
    host.store.close()
    again = open_host(new, read_identity(new.identity), reach_ptpm(new, DEVICE), lambda: NOW)
    assert again.store.get("note") == b"after the second attempt"


BUSY = PtpmFailed("TDM-PTPM-BUSY", "the pTPM is busy", hint="wait", number=0x922)
NO_INDEX = Refused("TDM-ROLLBACK-GENERATION", "its index is gone", hint="put it back")


@pytest.mark.parametrize("failure", [BUSY, NO_INDEX], ids=lambda each: each.code)
def test_a_host_whose_former_anchor_is_not_back_commits_nothing_more(
    device: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: TandemError
) -> None:
    # Given a new master key whose making fails late, and a pTPM that fails the way back, too
    new = paths(tmp_path / "host")
    initialise(new, DEVICE, FIRMWARE, NOW, approval_key=KEY)
    identity = read_identity(new.identity)
    host = open_host(new, identity, reach_ptpm(new, DEVICE), lambda: NOW)
    master = open_master(new, identity, host.ptpm)
    terms = next_terms(identity, KEY)
    approvals = terms.approvals(host.ptpm.read_state(FIRMWARE))
    forward = host.ptpm.use_keys

    def one_way(slot: int, ak: KeyBlob, auths: Mapping[str, Secret]) -> None:
        if slot == identity.slot:
            raise failure
        forward(slot, ak, auths)

    with monkeypatch.context() as patched:
        patched.setattr("tandem.manager.rotation.place_identity", no_space)
        patched.setattr(host.ptpm, "use_keys", one_way)
        with pytest.raises(HostError) as raised:
            renew(
                new,
                host.ptpm,
                host.store,
                identity=identity,
                master=master,
                terms=terms,
                approvals=approvals,
            )
    assert raised.value.code == "TDM-HOST-NOT-RENEWED"
    # When something is to be committed
    host.store.stage("note", b"after the failure")
    with pytest.raises(HostError) as refused:
        host.store.commit()
    # Then it is refused, rather than extended into the wrong anchor, and a new start goes on
    assert refused.value.code == "TDM-STORE-NOT-ANCHORED"
    host.store.close()
    again = open_host(new, read_identity(new.identity), reach_ptpm(new, DEVICE), lambda: NOW)
    again.store.stage("note", b"after the next start")
    again.store.commit()


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
