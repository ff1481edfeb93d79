"""The pTPM's module on a TPM 2.0 of its own, without the rest of the Manager."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tpm2_pytss as tss  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import ec

from tandem.appraisal.enrolment import make_credential
from tandem.errors import Refused
from tandem.evidence.attest import parse_quote
from tandem.evidence.host_approval import (
    Approval,
    approve,
    authorized_policy,
    key_name,
    policy_reference,
)
from tandem.evidence.host_state import HostState, StateDocument, pcr_policy
from tandem.evidence.pcr_values import pcr_digest
from tandem.evidence.tpm_types import parse_public
from tandem.manager.ptpm import EkKind, KeyBlob, Ptpm, public_area
from tandem.manager.tcti import PtpmFailed
from tandem.manager.tpm_templates import AK_HANDLES, ROOT_HANDLE, state_selection
from tandem.values import Secret

AUTHS = {name: Secret(os.urandom(32)) for name in ("ak", "ca", "chain")}
MASTER = Secret(b"m" * 32)
KEY = ec.generate_private_key(ec.SECP256R1())
APPROVER = KEY.public_key()


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
    """Give a pTPM that was measured into, with the Manager's root."""
    started = Ptpm(descriptor)
    started.startup()
    for register in (8, 9):
        started.measure(register, b"measured")
    started.make_root()
    return started


@pytest.fixture
def loaded(ptpm: Ptpm) -> tuple[Ptpm, KeyBlob]:
    """Give a pTPM with the Manager's keys, and the AK."""
    ak = ptpm.create_ak(AUTHS["ak"])
    ptpm.define_chain_index(0, AUTHS["chain"])
    ptpm.use_keys(0, ak, AUTHS)
    return ptpm, ak


def sealed_to(ptpm: Ptpm, generation: int = 1) -> KeyBlob:
    return ptpm.seal(MASTER, policy=authorized_policy(APPROVER, "host", generation))


def approval_of(state: HostState, generation: int = 1, subject: str = "host") -> Approval:
    return approve(StateDocument(subject=subject, generation=generation, state=state), KEY)


def test_a_quote_names_the_values_that_it_covers(loaded: tuple[Ptpm, KeyBlob]) -> None:
    # Given quotes before and after a register changed
    ptpm, _ = loaded
    before = ptpm.quote(b"q" * 32, (8, 9))
    ptpm.measure(9, b"more")
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


def test_a_sealed_key_opens_in_the_approved_state_alone(ptpm: Ptpm) -> None:
    # Given a key that was sealed, and an approval of the present state
    sealed, approval = sealed_to(ptpm), approval_of(ptpm.read_state((8, 9)))
    assert ptpm.unseal(sealed, approval, APPROVER).reveal() == MASTER.reveal()
    # When one register changes
    ptpm.measure(9, b"something else")
    # Then it does not open
    with pytest.raises(Refused) as raised:
        ptpm.unseal(sealed, approval, APPROVER)
    assert raised.value.code == "TDM-SEALED-FOR-ANOTHER-STATE"


def test_a_state_is_approved_before_it_comes(ptpm: Ptpm) -> None:
    # Given a sealed key, and the approval of a state that the host is not in
    sealed, before = sealed_to(ptpm), ptpm.read_state((8, 9))
    ptpm.measure(9, b"the next kernel")
    coming = approval_of(ptpm.read_state((8, 9)))
    # When the host is in it
    found = ptpm.unseal(sealed, coming, APPROVER)
    # Then the same blob opens, and the two states differ in both banks
    assert found.reveal() == MASTER.reveal()
    assert coming.state.differing(before) == (9,)
    assert set(coming.state.banks) == {"sha256", "sha384"}


def test_an_approval_of_another_generation_subject_or_key_opens_nothing(ptpm: Ptpm) -> None:
    # Given a sealed key of generation 2
    state = ptpm.read_state((8, 9))
    sealed = sealed_to(ptpm, generation=2)
    other = ec.generate_private_key(ec.SECP256R1())
    document = StateDocument(subject="host", generation=2, state=state)
    others = [
        (approval_of(state, generation=1), APPROVER),
        (approval_of(state, generation=2, subject="group/a"), APPROVER),
        (approve(document, other), other.public_key()),
    ]
    # When approvals of the right state are tried that are not for it
    # Then none opens it, and the right one does
    for approval, key in others:
        with pytest.raises(Refused):
            ptpm.unseal(sealed, approval, key)
    found = ptpm.unseal(sealed, approval_of(state, generation=2), APPROVER)
    assert found.reveal() == MASTER.reveal()


def test_a_signature_that_does_not_hold_is_not_taken(ptpm: Ptpm) -> None:
    # Given an approval whose state was changed after it was signed
    state = ptpm.read_state((8, 9))
    sealed = sealed_to(ptpm)
    signed = approval_of(HostState(banks={"sha256": {8: bytes(32), 9: bytes(32)}}))
    forged = Approval(subject="host", generation=1, state=state, signature=signed.signature)
    # When the pTPM is asked
    # Then it does not take the signature
    with pytest.raises(PtpmFailed):
        ptpm.unseal(sealed, forged, APPROVER)


@pytest.mark.parametrize("banks", [("sha256",), ("sha384", "sha256")])
def test_policies_are_those_that_a_tpm_computes(ptpm: Ptpm, banks: tuple[str, ...]) -> None:
    # Given a state of the host, in one bank or in both
    full = ptpm.read_state((8, 9, 0, 23))
    state = HostState(banks={bank: full.banks[bank] for bank in banks})
    esys = ptpm._esys
    # When a TPM computes the policies in trial sessions
    with ptpm._session(tss.TPM2_SE.TRIAL) as session:
        esys.policy_pcr(session, tss.TPM2B_DIGEST(b""), state_selection(state))
        by_registers = bytes(esys.policy_get_digest(session))
    reference = policy_reference("group/a", 7)
    ticket = tss.TPMT_TK_VERIFIED(tag=tss.TPM2_ST.VERIFIED, hierarchy=tss.TPM2_RH.ENDORSEMENT)
    with ptpm._session(tss.TPM2_SE.TRIAL) as session:
        esys.policy_authorize(session, b"", key_name(APPROVER), ticket, reference)
        by_signature = bytes(esys.policy_get_digest(session))
    # Then they are ours
    assert pcr_policy(state) == by_registers
    assert authorized_policy(APPROVER, "group/a", 7) == by_signature


def test_a_sealed_key_is_not_in_its_blob(ptpm: Ptpm) -> None:
    # Given a sealed key
    sealed = sealed_to(ptpm)
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


def test_the_root_is_never_made_again(ptpm: Ptpm) -> None:
    # Given a key below the root, and the root taken away
    ca = ptpm.create_ca_key(AUTHS["ca"])
    ptpm.remove_host()
    # When whoever has the hierarchy makes a root by the same template
    ptpm.make_root()
    # Then the key does not load below it
    with pytest.raises(Refused) as raised, ptpm.loaded_signer(ca, AUTHS["ca"]):
        pass
    assert raised.value.code == "TDM-PTPM-FOREIGN-KEYS"


def test_a_root_that_was_exchanged_is_refused(ptpm: Ptpm) -> None:
    # Given a pTPM whose root is not the one that the identity names
    # When it is opened
    with pytest.raises(Refused) as raised:
        ptpm.open_root(b"\0\x0b" + bytes(32))
    # Then it is refused by name
    assert raised.value.code == "TDM-PTPM-FOREIGN-KEYS"


def test_a_key_of_another_tpm_is_refused(ptpm: Ptpm) -> None:
    # Given a key whose private part was changed
    ca = ptpm.create_ca_key(AUTHS["ca"])
    changed = KeyBlob(public=ca.public, private=ca.private[:-1] + b"\xaa")
    # When it is loaded
    # Then it is refused by name
    with pytest.raises(Refused) as raised, ptpm.loaded_signer(changed, AUTHS["ca"]):
        pass
    assert raised.value.code == "TDM-PTPM-FOREIGN-KEYS"


def test_a_key_gets_another_authorisation_and_keeps_its_name(
    loaded: tuple[Ptpm, KeyBlob],
) -> None:
    # Given the AK under a new authorisation, in the other slot
    ptpm, ak = loaded
    auths = {name: Secret(os.urandom(32)) for name in AUTHS}
    changed = ptpm.change_auth(ak, AUTHS["ak"], auths["ak"])
    ptpm.keep_ak(1, changed)
    ptpm.define_chain_index(1, auths["chain"])
    # When that slot is used, and the other emptied
    ptpm.use_keys(1, changed, auths)
    ptpm.empty_slot(0)
    # Then it is the same key, which the former authorisation does not use any more
    assert ptpm.quote(bytes(32), (8,)).attest
    assert ptpm.ak_public == public_area(ak)
    assert ptpm._handles_from(ROOT_HANDLE) == [ROOT_HANDLE, AK_HANDLES[1]]
    ptpm.use_keys(1, changed, AUTHS)
    with pytest.raises(PtpmFailed):
        ptpm.quote(bytes(32), (8,))


def test_what_a_killed_manager_left_is_flushed(
    loaded: tuple[Ptpm, KeyBlob], descriptor: int
) -> None:
    # Given a Manager that was killed with a key loaded: a device keeps it
    leaving, ak = loaded
    leaving._load(leaving.create_ca_key(AUTHS["ca"]))
    assert len(leaving._handles_from(0x80000000)) == 1
    # When the next one starts on it
    following = Ptpm(descriptor)
    following.startup()
    # Then no slot is taken, and the Manager's keys are where they were
    assert following._handles_from(0x80000000) == []
    assert following._handles_from(0x02000000) == []
    following.use_keys(0, ak, AUTHS)
    assert following.quote(bytes(32), (8,)).attest


def test_no_command_leaves_an_object_or_a_session(ptpm: Ptpm) -> None:
    # Given a pTPM, with three slots for objects
    sealed, approval = sealed_to(ptpm), approval_of(ptpm.read_state((8,)))
    ak, ca = ptpm.create_ak(AUTHS["ak"]), ptpm.create_ca_key(AUTHS["ca"])
    ptpm.define_chain_index(0, AUTHS["chain"])
    # When everything is done that may succeed or fail, in the order of a start and a service
    ptpm.unseal(sealed, approval, APPROVER)
    ptpm.measure(8, b"more")
    with pytest.raises(Refused):
        ptpm.unseal(sealed, approval, APPROVER)
    ptpm.use_keys(0, ak, AUTHS)
    ptpm.quote(bytes(32), (8,))
    ptpm.extend_chain(bytes(32))
    ptpm.change_auth(ca, AUTHS["ca"], Secret(bytes(32)))
    with ptpm.loaded_signer(ca, AUTHS["ca"]) as sign:
        sign(bytes(32))
    for size in (1, 100, 256, 3000):
        with pytest.raises(Refused):
            ptpm.activate_credential(EkKind.RSA_2048, bytes(size), bytes(size))
    # Then nothing is loaded, and no session
    assert ptpm._handles_from(0x80000000) == []
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


def test_another_hosts_keys_and_anchor_are_left_alone(loaded: tuple[Ptpm, KeyBlob]) -> None:
    # Given a TPM that anchors a host's store
    ptpm, _ = loaded
    ptpm.extend_chain(b"r" * 32)
    before = ptpm.read_chain()
    # When another host is to be made there
    with pytest.raises(Refused) as raised:
        ptpm.make_root()
    # Then that is refused, and the first anchor is as it was
    assert raised.value.code == "TDM-PTPM-OF-ANOTHER-HOST"
    assert ptpm.read_chain() == before


def test_an_anchor_that_is_gone_is_named(loaded: tuple[Ptpm, KeyBlob]) -> None:
    # Given a TPM whose anchor was taken away
    ptpm, ak = loaded
    ptpm.empty_slot(0)
    # When the host's keys are used
    with pytest.raises(Refused) as raised:
        ptpm.use_keys(0, ak, AUTHS)
    # Then it is refused: nothing shows that its store is the newest
    assert raised.value.code == "TDM-ROLLBACK-GENERATION"
