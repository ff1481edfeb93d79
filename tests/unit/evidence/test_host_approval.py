"""Host states and their approvals: what a policy demands, and what a signature is for."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.host_approval import (
    Approval,
    approve,
    authorized_policy,
    check_approval,
    key_name,
    key_public,
    parse_approval,
    parse_approval_key,
    parse_approval_private_key,
    policy_reference,
    write_approval,
)
from tandem.evidence.host_state import (
    HostState,
    StateDocument,
    parse_state,
    pcr_policy,
    refuse_blank,
    selection,
    write_state,
)
from tandem.evidence.tpm_types import parse_public

KEY = ec.generate_private_key(ec.SECP256R1())
STATE = HostState(
    banks={
        "sha256": {8: b"8" * 31 + b"x", 9: b"9" * 31 + b"x"},
        "sha384": {8: b"8" * 47 + b"y", 9: b"9" * 47 + b"y"},
    }
)
DOCUMENT = StateDocument(subject="host", generation=4, state=STATE)


def with_value(bank: str, register: int, value: bytes) -> HostState:
    banks = {name: dict(values) for name, values in STATE.banks.items()}
    banks[bank][register] = value
    return HostState(banks=banks)


def test_state_and_approval_are_read_as_they_were_written() -> None:
    # Given a state, and its approval for a group
    document = StateDocument(subject="group/a", generation=9, state=STATE)
    approval = approve(document, KEY)
    # When both are written and read
    # Then they are what they were, and the signature holds
    assert parse_state(write_state(document)) == document
    assert parse_approval(write_approval(approval)) == approval
    check_approval(parse_approval(write_approval(approval)), KEY.public_key())


def test_a_selection_is_marshalled_as_a_tpm_does() -> None:
    # Given registers 8 and 9 of two banks
    # When their selection is written
    # Then it is the TPML_PCR_SELECTION of the TPM 2.0 library (Part 2, 10.9.7)
    assert selection(STATE).hex(" ") == "00 00 00 02 00 0b 03 00 03 00 00 0c 03 00 03 00"


def test_the_policy_of_a_state_is_that_of_part_3() -> None:
    # Given a state of one register
    state = HostState(banks={"sha256": {0: b"v" * 32}})
    # When its policy is computed
    chosen = bytes.fromhex("00000001000b03010000")
    values = hashlib.sha256(b"v" * 32).digest()
    # Then it is H(0 || TPM_CC_PolicyPCR || selection || H(values))
    expected = hashlib.sha256(bytes(32) + bytes.fromhex("0000017f") + chosen + values).digest()
    assert pcr_policy(state) == expected


@pytest.mark.parametrize(
    "changed",
    [
        with_value("sha256", 8, b"z" * 31 + b"x"),
        with_value("sha384", 9, b"z" * 47 + b"y"),
        HostState(banks={"sha256": STATE.banks["sha256"]}),
    ],
)
def test_an_approval_is_of_one_state(changed: HostState) -> None:
    # Given an approval
    approval = approve(DOCUMENT, KEY)
    # When a value in either bank, or a whole bank, is changed in it
    with pytest.raises(Refused) as raised:
        check_approval(replace(approval, state=changed), KEY.public_key())
    # Then its signature does not hold
    assert raised.value.code == "TDM-APPROVAL-NOT-SIGNED"


@pytest.mark.parametrize("changes", [{"generation": 5}, {"subject": "group/host"}])
def test_an_approval_is_of_one_generation_and_subject(changes: dict[str, int | str]) -> None:
    # Given an approval
    approval = approve(DOCUMENT, KEY)
    # When it is shown for another generation or subject
    # Then its signature does not hold, and the policy that it would meet is another
    with pytest.raises(Refused):
        check_approval(replace(approval, **changes), KEY.public_key())  # type: ignore[arg-type]
    policies = {
        authorized_policy(KEY.public_key(), *for_whom)
        for for_whom in (("host", 4), ("host", 5), ("group/host", 4))
    }
    assert len(policies) == 3


def test_each_approval_key_has_a_policy_of_its_own() -> None:
    # Given two keys
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    # When the policy of a secret is computed for each
    # Then they differ, as the keys' Names do
    assert key_name(other) != key_name(KEY.public_key())
    assert authorized_policy(other, "host", 1) != authorized_policy(KEY.public_key(), "host", 1)


def test_a_key_is_one_that_a_tpm_loads() -> None:
    # Given an approval key
    public = parse_public(key_public(KEY.public_key()))
    # When its TPMT_PUBLIC is read
    # Then its Name is the one that policies hold, and it is not restricted
    assert public.name == key_name(KEY.public_key())
    assert not public.is_ak


def test_a_reference_has_one_reading() -> None:
    # Given subjects and generations that could run into each other
    # When their references are computed
    # Then no two are the same
    names = [("host", 1), ("host\0", 1), ("host", 1 << 8), ("group/a", 1), ("group/a1", 1)]
    assert len({policy_reference(*each) for each in names}) == len(names)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (with_value("sha256", 8, bytes(32)), "PCR 8 holds 00"),
        (with_value("sha384", 9, b"\xff" * 48), "PCR 9 holds ff"),
        (with_value("sha384", 8, bytes(48)), "PCR 8 holds 00"),
    ],
)
def test_a_blank_register_is_refused_in_each_bank(state: HostState, named: str) -> None:
    # Given a state with a register that nothing was measured into, in one bank
    # When it is to be sealed to
    with pytest.raises(Refused) as raised:
        refuse_blank(state)
    # Then it is refused by name
    assert raised.value.code == "TDM-SEAL-UNMEASURED-PCR"
    assert named in raised.value.problem


def test_differing_registers_are_named_once() -> None:
    # Given two states that differ in one register of both banks, and one that lacks a bank
    banks = {name: {**values, 9: bytes(len(values[9]))} for name, values in STATE.banks.items()}
    # When they are compared
    # Then the register is named, and what lacks differs everywhere
    assert STATE.differing(HostState(banks=banks)) == (9,)
    assert STATE.differing(HostState(banks={"sha256": STATE.banks["sha256"]})) == (8, 9)
    assert STATE.differing(STATE) == ()


BAD_APPROVALS = {
    "no registers": b'{"sha256": {}}',
    "a bank alone": b'{"sha384": {"8": "' + b"00" * 48 + b'"}}',
    "registers not in both": b'{"sha256": {"8": "' + b"00" * 32 + b'"}, "sha384": {}}',
    "a register of no TPM": b'{"sha256": {"24": "' + b"00" * 32 + b'"}}',
    "a short value": b'{"sha256": {"8": "00"}}',
}


@pytest.mark.parametrize("what", BAD_APPROVALS)
def test_a_state_that_no_host_has_is_refused(what: str) -> None:
    # Given a document with such a state
    document = b'{"format": "tandem-host-state-1", "generation": 1, "subject": "host", "state": %s}'
    # When it is read
    with pytest.raises(UntrustedInput) as raised:
        parse_state(document % BAD_APPROVALS[what])
    # Then it is refused, and the place is named
    assert raised.value.code == "TDM-HOST-STATE-BAD"
    assert "$.state" in raised.value.problem


@pytest.mark.parametrize("subject", ["", "hosts", "group/", "group/A", "group/a/b", "host/"])
def test_an_odd_subject_is_refused(subject: str) -> None:
    # Given a state of a subject that is neither host nor group
    written = write_state(replace(DOCUMENT, subject=subject))
    # When it is read
    # Then it is refused
    with pytest.raises(UntrustedInput):
        parse_state(written)


@pytest.mark.parametrize("signature", [b"", b"\x30\x00", bytes.fromhex("3006020100020101"), b"x"])
def test_a_signature_that_no_tpm_can_be_told_is_refused(signature: bytes) -> None:
    # Given an approval with something else in place of its signature
    approval = Approval(subject="host", generation=1, state=STATE, signature=signature)
    # When it is read
    # Then it is refused
    with pytest.raises(UntrustedInput):
        parse_approval(write_approval(approval))


def test_only_p256_keys_approve() -> None:
    # Given keys of two curves
    for curve, fits in ((ec.SECP256R1(), True), (ec.SECP384R1(), False)):
        key = ec.generate_private_key(curve)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        # When they are read
        # Then only one of them is taken
        if fits:
            assert parse_approval_private_key(private).public_key() == parse_approval_key(public)
            continue
        for reader, pem in (
            (parse_approval_private_key, private),
            (parse_approval_key, public),
            (parse_approval_key, private),
        ):
            with pytest.raises(UntrustedInput) as raised:
                reader(pem)
            assert raised.value.code == "TDM-APPROVAL-KEY-BAD"
