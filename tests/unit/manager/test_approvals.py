"""The approvals of a host: which count, and which one fits the present."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.errors import Refused, TandemError
from tandem.evidence.host_approval import Approval, approve, write_approval
from tandem.evidence.host_state import HostState, StateDocument
from tandem.manager.approvals import check_for, choose, install, keep_only, read_approvals
from tests.unit.manager.test_identity import IDENTITY

KEY = ec.generate_private_key(ec.SECP256R1())
DER = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
HERE = replace(IDENTITY, approval_key=DER)  # generation 3, PCR 8 and 9


def state(eight: bytes = b"8", nine: bytes = b"9", *banks: str) -> HostState:
    sizes = {"sha256": 32, "sha384": 48}
    return HostState(
        banks={bank: {8: eight * sizes[bank], 9: nine * sizes[bank]} for bank in banks or sizes}
    )


def approval(of: HostState, generation: int = 3, subject: str = "host") -> Approval:
    return approve(StateDocument(subject=subject, generation=generation, state=of), KEY)


def test_the_approval_of_the_present_state_is_chosen() -> None:
    # Given approvals of several states
    approvals = [approval(state(nine=value)) for value in (b"a", b"b", b"c")]
    # When the host is in one of them
    chosen = choose(approvals, state(nine=b"b"), "the key")
    # Then its approval is the one
    assert chosen is approvals[1]


def test_an_approval_of_one_bank_is_compared_in_that_bank() -> None:
    # Given an approval from before the SHA-384 bank was there
    only = approval(state(b"8", b"9", "sha256"))
    # When the host has both banks
    # Then it fits; where the host lacks a bank that was approved, it does not
    assert choose([only], state(), "the key") is only
    with pytest.raises(Refused):
        choose([approval(state())], state(b"8", b"9", "sha256"), "the key")


def test_the_nearest_approval_says_what_changed() -> None:
    # Given approvals of which none fits
    approvals = [approval(state(b"x", b"y")), approval(state(nine=b"y"))]
    # When the host is in another state
    with pytest.raises(Refused) as raised:
        choose(approvals, state(), "the key")
    # Then the register is named that is different from the nearest
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"
    assert "PCR 9 changed" in raised.value.problem


def test_a_host_without_approvals_says_so() -> None:
    # Given no approval
    # When one is to be chosen
    with pytest.raises(Refused) as raised:
        choose([], state(), "the key")
    # Then the error is about that
    assert raised.value.code == "TDM-HOST-STATE-NOT-APPROVED"


def test_what_is_installed_is_read_and_what_does_not_count_is_not(tmp_path: Path) -> None:
    # Given approvals of this host, and files that are none
    good = [approval(state(nine=value)) for value in (b"a", b"b")]
    for each in good:
        install(tmp_path, each, os.getuid())
    others = [
        write_approval(approval(state(), generation=2)),
        write_approval(approval(state(), subject="group/a")),
        write_approval(replace(good[0], state=state(nine=b"z"))),
        b"noise",
        b"[" * 100_000,
    ]
    for number, content in enumerate(others):
        (tmp_path / f"3-{number}.json").write_bytes(content)
    (tmp_path / "3-nowhere.json").symlink_to("/nowhere")
    # When they are read
    found = read_approvals(tmp_path, HERE)
    # Then the good ones are there
    assert sorted(each.signature for each in found) == sorted(each.signature for each in good)


def test_installing_twice_leaves_one_file(tmp_path: Path) -> None:
    # Given an approval
    one = approval(state())
    # When it is installed twice
    first, second = (install(tmp_path, one, os.getuid()) for _ in range(2))
    # Then it is there once
    assert first == second
    assert list(tmp_path.iterdir()) == [first]


def test_approvals_of_former_generations_are_removed(tmp_path: Path) -> None:
    # Given approvals of two generations, and what a crash left
    kept = install(tmp_path, approval(state()), os.getuid())
    install(tmp_path, approval(state(), generation=2), os.getuid())
    (tmp_path / "30-half.new").write_bytes(b"half")
    # When those of the present one are kept
    keep_only(tmp_path, 3)
    # Then no other is left, and a directory that is missing is no error
    assert list(tmp_path.iterdir()) == [kept]
    keep_only(tmp_path / "missing", 3)


def test_an_approval_of_other_registers_does_not_count() -> None:
    # Given an approval of PCR 8 alone
    banks = {"sha256": {8: b"8" * 32}}
    # When it is checked for a host that is sealed to PCR 8 and 9
    with pytest.raises(TandemError) as raised:
        check_for(approval(HostState(banks=banks)), HERE)
    # Then it is refused
    assert raised.value.code == "TDM-APPROVAL-OTHER-REGISTERS"
