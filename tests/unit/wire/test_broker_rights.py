"""`broker.toml` says who may do what; nonsense and what is the Manager's are refused by place."""

from __future__ import annotations

import pytest

from tandem.errors import UsageError
from tandem.manager.tpm_templates import AK_HANDLES, CHAIN_INDICES, ROOT_HANDLE
from tandem.wire.broker_rights import (
    DEFAULT_RIGHTS,
    MANAGER_INDICES,
    MANAGER_PERSISTENT,
    Range,
    Rights,
    parse_rights,
)
from tandem.wire.tpm_commands import ENDORSEMENT, NULL, OWNER

WHOLE = """
[default]

[uid.1000]
hierarchies = ["owner", "endorsement"]
extend = [16, 23]
read_registers = false
nv = ["0x01500000-0x0150001f", "0x01500100"]
nv_size = 64
nv_writes = 5
persistent = ["0x81008000-0x8100800f"]
shared = ["0x81000001", "0x81000002"]
objects = 8
sessions = 3
"""


def test_everything_that_may_be_said_is_read() -> None:
    # Given a file with every key
    # When it is read
    rights = parse_rights(WHOLE)

    # Then a named user has what it says, and everybody else the defaults
    assert rights.of(1000) == Rights(
        hierarchies=frozenset({OWNER, ENDORSEMENT}),
        extend=frozenset({16, 23}),
        read_registers=False,
        nv=(Range(first=0x01500000, last=0x0150001F), Range(first=0x01500100, last=0x01500100)),
        nv_size=64,
        nv_writes=5,
        persistent=(Range(first=0x81008000, last=0x8100800F),),
        shared=frozenset({0x81000001, 0x81000002}),
        objects=8,
        sessions=3,
    )
    assert rights.of(1) == Rights()


def test_without_a_default_others_may_not_connect() -> None:
    # Given files without a default, and no file at all
    # When a user who is not named is looked up
    # Then it has no rights; without a file root alone has some
    assert parse_rights("[uid.1000]").of(1001) is None
    assert DEFAULT_RIGHTS.of(1000) is None
    assert DEFAULT_RIGHTS.of(0) == Rights()


def test_the_gate_lets_in_what_anybody_may() -> None:
    # Given two users with different rights
    rights = parse_rights('[uid.1]\nextend = [16]\nnv_size = 9\n[uid.2]\nhierarchies = ["null"]')

    # When they are put together
    union = rights.union()

    # Then it is what either may, and no more
    assert union.extend == {16}
    assert union.hierarchies == {OWNER, NULL}
    assert union.nv_size == 512
    assert union.nv_writes == 2 * Rights().nv_writes
    assert not union.nv
    assert union.read_registers
    assert parse_rights("").union().hierarchies == {NULL}


def test_the_gate_gives_no_registers_where_nobody_may_read_them() -> None:
    # Given two users, neither of whom may read registers
    rights = parse_rights("[uid.1]\nread_registers = false\n[uid.2]\nread_registers = false")

    # When they are put together
    # Then a broker that was taken over may not either
    assert not rights.union().read_registers


@pytest.mark.parametrize("handle", [ROOT_HANDLE, *AK_HANDLES])
def test_the_managers_keys_are_in_its_range(handle: int) -> None:
    # Given a persistent key of the Manager's
    # When its handle is looked up
    # Then nobody can be granted it
    assert handle in MANAGER_PERSISTENT
    with pytest.raises(UsageError):
        parse_rights(f'[uid.0]\nshared = ["{handle:#010x}"]')


@pytest.mark.parametrize("index", CHAIN_INDICES)
def test_the_managers_indices_are_in_its_range(index: int) -> None:
    # Given an index that anchors the Manager's store
    # When it is looked up
    # Then nobody can be granted it
    assert index in MANAGER_INDICES
    with pytest.raises(UsageError):
        parse_rights(f'[uid.0]\nnv = ["{index:#010x}"]')


@pytest.mark.parametrize(
    "text",
    [
        "[uid.1",
        "[users]",
        "uid = 3",
        "default = true",
        "[uid.root]",
        "[uid.1]\ncolour = 1",
        "[uid.1]\nextend = 16",
        "[uid.1]\nextend = [24]",
        "[uid.1]\nextend = [17]",
        "[uid.1]\nextend = [true]",
        '[uid.1]\nhierarchies = ["platform"]',
        '[uid.1]\nhierarchies = "owner"',
        "[uid.1]\nread_registers = 1",
        '[uid.1]\nnv = ["0x1500000"]',
        '[uid.1]\nnv = ["0x01500001-0x01500000"]',
        '[uid.1]\nnv = ["0x01500000-0x81000000"]',
        '[uid.1]\nnv = ["0x01c00002"]',
        '[uid.1]\nnv = ["0x01700000-0x01900000"]',
        "[uid.1]\nnv = [5]",
        "[uid.1]\nnv_size = 0",
        "[uid.1]\nnv_size = 4096",
        "[uid.1]\nnv_writes = 0",
        '[uid.1]\npersistent = ["0x81800000"]',
        '[uid.1]\npersistent = ["0x81015430-0x81015440"]',
        '[uid.1]\nshared = ["0x81000000-0x81000001"]',
        "[uid.1]\nobjects = -1",
        "[uid.1]\nsessions = 41",
        "[uid.1]\nsessions = true",
    ],
)
def test_nonsense_is_refused_by_place(text: str) -> None:
    # Given a file that says what cannot be
    # When it is read
    with pytest.raises(UsageError) as refusal:
        parse_rights(text)

    # Then the refusal has its code, and the hint where to look
    assert refusal.value.code == "TDM-BROKER-RIGHTS"
    assert "broker.toml" in refusal.value.problem
