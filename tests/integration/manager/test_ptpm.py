"""The pTPM's module on a TPM 2.0 of its own, without the rest of the Manager."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.appraisal.enrolment import make_credential
from tandem.errors import Refused
from tandem.evidence.attest import parse_quote
from tandem.evidence.pcr_values import pcr_digest
from tandem.evidence.tpm_types import parse_public
from tandem.manager.ptpm import EkKind, KeyBlob, Ptpm, public_area
from tandem.values import Secret

AUTHS = {name: Secret(os.urandom(32)) for name in ("ak", "ca", "chain")}
MASTER = Secret(b"m" * 32)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    ours, theirs = socket.socketpair()
    command = ["swtpm", "socket", "--tpm2", "--fd", str(theirs.fileno()), "--terminate"]
    options = ["--tpmstate", f"dir={tmp_path}", "--flags", "not-need-init,startup-clear"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], pass_fds=[theirs.fileno()], stdout=log, stderr=log
        )
    theirs.close()
    yield ours.fileno()
    ours.close()
    process.wait(10)


@pytest.fixture
def ptpm(descriptor: int) -> Ptpm:
    started = Ptpm(descriptor)
    started.startup()
    for register in (8, 9):
        started.pcr_extend(register, hashlib.sha256(b"measured").digest())
    return started


@pytest.fixture
def loaded(ptpm: Ptpm) -> tuple[Ptpm, KeyBlob]:
    """Give a pTPM with the Manager's keys, and the AK."""
    ak, ca = ptpm.create_ak(AUTHS["ak"]), ptpm.create_ca_key(AUTHS["ca"])
    ptpm.define_chain_index(AUTHS["chain"])
    ptpm.load_keys(ak, ca, AUTHS)
    return ptpm, ak


def test_a_quote_names_the_values_that_it_covers(loaded: tuple[Ptpm, KeyBlob]) -> None:
    # Given quotes before and after a register changed
    ptpm, _ = loaded
    before = ptpm.quote(b"q" * 32, (8, 9))
    ptpm.pcr_extend(9, bytes(32))
    # When another is made
    after = ptpm.quote(b"r" * 32, (9, 8))
    # Then each comes with the values that its digest is of
    for quoted in (before, after):
        assert parse_quote(quoted.attest).pcr_digest == pcr_digest(quoted.pcrs)
    assert before.pcrs[8] == after.pcrs[8]
    assert before.pcrs[9] != after.pcrs[9]


def test_a_quote_covers_all_registers_of_a_host(loaded: tuple[Ptpm, KeyBlob]) -> None:
    # Given more registers than a TPM reads in one answer
    ptpm, _ = loaded
    registers = tuple(range(24))
    # When they are quoted
    quoted = ptpm.quote(b"q" * 32, registers)
    # Then all are there
    assert sorted(quoted.pcrs) == list(registers)
    assert parse_quote(quoted.attest).pcr_digest == pcr_digest(quoted.pcrs)


def test_the_master_key_opens_while_the_registers_hold(ptpm: Ptpm) -> None:
    # Given a sealed key
    sealed, pcrs = ptpm.seal(MASTER, (8, 9))
    assert ptpm.unseal(sealed, pcrs).reveal() == MASTER.reveal()
    # When one register changes
    ptpm.pcr_extend(9, bytes(32))
    # Then it does not open, and the error names the register
    with pytest.raises(Refused) as raised:
        ptpm.unseal(sealed, pcrs)
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"
    assert "PCR 9 changed" in raised.value.problem


@pytest.mark.parametrize("registers", [(0,), (8, 0), (17,), (8, 23)])
def test_nothing_is_sealed_to_what_nobody_measured(ptpm: Ptpm, registers: tuple[int, ...]) -> None:
    # Given registers of which one holds 00 or FF only
    # When the master key is to be sealed to them
    # Then that is refused by name
    with pytest.raises(Refused) as raised:
        ptpm.seal(MASTER, registers)
    assert raised.value.code == "TDM-SEAL-UNMEASURED-PCR"


def test_a_sealed_key_is_not_in_its_blob(ptpm: Ptpm) -> None:
    # Given a sealed key
    sealed, _ = ptpm.seal(MASTER, (8,))
    # When its blob is looked at
    # Then the key is not there in clear
    assert MASTER.reveal() not in sealed.public + sealed.private


def test_keys_are_random_and_stay_in_their_tpm(ptpm: Ptpm) -> None:
    # Given the AK made twice with the same authorisation
    first, second = (ptpm.create_ak(AUTHS["ak"]) for _ in range(2))
    # When both are compared
    # Then they differ: nobody makes them again from the hierarchy's seed
    assert public_area(first) != public_area(second)
    assert parse_public(public_area(first)).is_ak


def test_a_key_of_another_tpm_is_refused(ptpm: Ptpm, tmp_path: Path) -> None:
    # Given a key whose private part was changed
    ak, ca = ptpm.create_ak(AUTHS["ak"]), ptpm.create_ca_key(AUTHS["ca"])
    changed = KeyBlob(public=ak.public, private=ak.private[:-1] + b"\xaa")
    # When it is loaded
    # Then it is refused by name
    with pytest.raises(Refused) as raised:
        ptpm.load_keys(changed, ca, AUTHS)
    assert raised.value.code == "TDM-PTPM-FOREIGN-KEYS"


def test_what_a_killed_manager_left_is_flushed(
    loaded: tuple[Ptpm, KeyBlob], descriptor: int
) -> None:
    # Given a Manager that loaded its keys and was killed: a device keeps them
    leaving, ak = loaded
    assert len(leaving._handles_from(0x80000000)) == 2
    # When the next one starts on it
    following = Ptpm(descriptor)
    following.startup()
    # Then the TPM is empty, and has room for its keys
    assert following._handles_from(0x80000000) == []
    assert following._handles_from(0x02000000) == []
    following.load_keys(ak, following.create_ca_key(AUTHS["ca"]), AUTHS)


def test_no_command_leaves_an_object_or_a_session(ptpm: Ptpm) -> None:
    # Given a pTPM, with three slots for objects
    sealed, pcrs = ptpm.seal(MASTER, (8,))
    ak, ca = ptpm.create_ak(AUTHS["ak"]), ptpm.create_ca_key(AUTHS["ca"])
    ptpm.define_chain_index(AUTHS["chain"])
    # When everything is done that may succeed or fail, in the order of a start and a service
    ptpm.unseal(sealed, pcrs)
    ptpm.pcr_extend(8, bytes(32))
    with pytest.raises(Refused):
        ptpm.unseal(sealed, pcrs)
    ptpm.load_keys(ak, ca, AUTHS)
    ptpm.quote(bytes(32), (8,))
    ptpm.extend_chain(bytes(32))
    ptpm.sign_digest(bytes(32))
    for size in (1, 100, 256, 3000):
        with pytest.raises(Refused):
            ptpm.activate_credential(EkKind.RSA_2048, bytes(size), bytes(size))
    # Then AK and CA key are loaded, and no session
    assert len(ptpm._handles_from(0x80000000)) == 2
    assert ptpm._handles_from(0x02000000) == []


@pytest.mark.parametrize("kind", EkKind)
def test_a_credential_for_either_ek_is_activated(
    loaded: tuple[Ptpm, KeyBlob], kind: EkKind
) -> None:
    # Given a credential made in software for one of the EKs
    ptpm, ak = loaded
    ek = parse_public(ptpm.endorsement_key(kind))
    assert ek.is_ek
    name = parse_public(public_area(ak)).name
    challenge = make_credential(ek, name, b"c" * 32, os.urandom)
    # When the pTPM activates it
    found = ptpm.activate_credential(kind, challenge.credential_blob, challenge.encrypted_secret)
    # Then it is the one that was made
    assert found == b"c" * 32


def test_a_tpm_without_an_ek_certificate_says_so(ptpm: Ptpm) -> None:
    # Given a TPM that nobody certified
    # When its certificate is read
    # Then there is none
    assert [ptpm.endorsement_certificate(kind) for kind in EkKind] == [b"", b""]


def test_the_anchor_only_moves_forward(loaded: tuple[Ptpm, KeyBlob]) -> None:
    # Given the anchor before its first extend
    ptpm, _ = loaded
    assert ptpm.read_chain() == bytes(32)
    # When it is extended
    ptpm.extend_chain(b"r" * 32)
    # Then it holds the digest of both values
    assert ptpm.read_chain() == hashlib.sha256(bytes(32) + b"r" * 32).digest()


def test_another_hosts_anchor_is_left_alone(loaded: tuple[Ptpm, KeyBlob]) -> None:
    # Given a TPM that anchors a host's store
    ptpm, _ = loaded
    ptpm.extend_chain(b"r" * 32)
    before = ptpm.read_chain()
    # When another host is to be anchored there
    with pytest.raises(Refused) as raised:
        ptpm.define_chain_index(AUTHS["chain"])
    # Then that is refused, and the first anchor is as it was
    assert raised.value.code == "TDM-PTPM-OF-ANOTHER-HOST"
    assert ptpm.read_chain() == before
