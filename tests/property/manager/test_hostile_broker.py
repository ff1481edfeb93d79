"""A broker that was taken over sends what it likes: nothing of the Manager's is ever reached.

The TPM here records what the gate lets through and answers at random, so that no refusal can come
from it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.manager.gate import ACTIVE_MOST, OBJECTS_MOST, SESSIONS_MOST, Gate
from tandem.manager.tpm_templates import AK_HANDLES, CHAIN_INDICES, ROOT_HANDLE
from tandem.wire.broker_rights import MANAGER_INDICES, MANAGER_PERSISTENT, Range, Rights
from tandem.wire.nv_wear import WriteBudget
from tandem.wire.tpm_capabilities import capability
from tandem.wire.tpm_commands import ENDORSEMENT, PASSWORD, PLATFORM, command, response
from tandem.wire.tpm_requests import code_of, parse_request
from tandem.wire.tpm_table import TABLE, Kind, Row, Rule
from tests.gated_tpm import CODES, NO_AUTH, ROOT_NAME, create_primary

RIGHTS = Rights(
    extend=frozenset({16}),
    nv=(Range(first=0x01500000, last=0x0150000F),),
    persistent=(Range(first=0x81008000, last=0x8100800F),),
)
LOCKOUT = 0x4000000A
MANAGERS = (
    *(ROOT_HANDLE, *AK_HANDLES, MANAGER_PERSISTENT.last),
    *(*CHAIN_INDICES, MANAGER_INDICES.first),
)
NOT_GRANTED = (
    *MANAGERS,
    *(ENDORSEMENT, PLATFORM, LOCKOUT, 0x40000010, 0x40000110),
    *(0x81010001, 0x81800000, 0x01800000, 0x01000000),  # keys and indices of others
    *(0x80000000, 0x80FFFFFF, 0x02000000, 0x03000007),  # objects and sessions of others
    *(0, 10, 17, 23, 0x90000000, 0xFFFFFFFF),
)
EK_CERTIFICATE = 0x01C00002


class RecordingTpm:
    """A TPM that says yes to everything, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.given: set[int] = set()  # handles of objects and sessions
        self.answers: Iterator[bytes] = iter(())

    def transceive(self, sent: bytes) -> bytes:
        self.asked.append(sent)
        row = TABLE[code_of(sent)]
        if row.name == "GetCapability":
            return capability(6, bytes(4), more=False)
        if row.name == "StartAuthSession":
            return response(0, self._give(0x02000000))
        if row.name == "ContextLoad" and sent[18] in (2, 3):  # a session, under its own handle
            return response(0, sent[18:22])
        if row.creates is not None or row.name == "ContextLoad":
            return response(0, self._give(0x80000000) + next(self.answers, b""))
        if row.name == "ContextSave":
            handle = int.from_bytes(sent[10:14])
            return response(0, struct.pack(">QIIH4s", 1, handle, 0x40000001, 4, b"blob"))
        return response(0)

    def _give(self, first: int) -> bytes:
        self.given.add(first + len(self.given) + 1)
        return (first + len(self.given)).to_bytes(4)


@pytest.fixture(name="tpm")
def _tpm() -> RecordingTpm:
    return RecordingTpm()


def gate_to(tpm: RecordingTpm) -> Gate:
    writes = WriteBudget(RIGHTS.nv_writes, 0.0)
    gate = Gate(tpm.transceive, rights=RIGHTS, root_name=ROOT_NAME, writes=writes)
    tpm.asked.clear()
    return gate


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_no_command_reaches_what_is_not_the_brokers(row: Row, tpm: RecordingTpm) -> None:
    # Given a gate, and parameters that any command could have
    gate = gate_to(tpm)
    for place in range(len(row.places)):
        for handle in NOT_GRANTED:
            if row.places[place].kind is Kind.PRIVACY and handle == ENDORSEMENT:
                continue  # it consents there, and nothing of it is used
            handles = [0x40000007] * len(row.places)
            handles[place] = handle

            # When a command names at any place what is the Manager's, or nobody's
            sent = command(row.code, handles, bytes(64), [NO_AUTH] * max(1, row.authorizations))
            answer = gate.execute(sent)

            # Then it is refused, and the TPM does not hear of it
            assert code_of(answer) != 0
            assert not tpm.asked


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_what_is_refused_is_refused_on_any_handle(row: Row, tpm: RecordingTpm) -> None:
    # Given a command that the table refuses
    if row.rule is not Rule.REFUSE:
        return
    gate = gate_to(tpm)

    # When it is sent with handles that are granted elsewhere
    for handle in (0x40000001, 0x40000007, 0x01500000, 0x81008000, 16):
        sent = command(row.code, [handle] * len(row.places), bytes(64), [NO_AUTH] * 3)
        answer = gate.execute(sent)

        # Then the answer is that there is no such command, and the TPM does not hear of it
        assert code_of(answer) == 0x000B0143
        assert not tpm.asked


@pytest.mark.parametrize(
    ("name", "handles", "parameters"),
    [
        ("FlushContext", (), (0x80000000).to_bytes(4)),
        ("FlushContext", (), (0x02000000).to_bytes(4)),
        ("FlushContext", (), (ROOT_HANDLE).to_bytes(4)),
        ("EvictControl", (0x40000001, ROOT_HANDLE), ROOT_HANDLE.to_bytes(4)),
        ("EvictControl", (0x40000001, 0x81008000), ROOT_HANDLE.to_bytes(4)),
        ("EvictControl", (0x40000001, 0x81008000), (0x81008001).to_bytes(4)),
        ("EvictControl", (0x40000001, 0x81000001), (0x81000001).to_bytes(4)),
        ("EvictControl", (0x40000001, 0x81000001), (0x81008001).to_bytes(4)),
        ("NV_UndefineSpace", (0x40000001, CHAIN_INDICES[0]), b""),
        ("NV_Write", (0x40000001, EK_CERTIFICATE), b"\x00\x01x\x00\x00"),
        ("NV_WriteLock", (0x40000001, EK_CERTIFICATE), b""),
        ("NV_UndefineSpace", (0x40000001, EK_CERTIFICATE), b""),
        ("PCR_Extend", (17,), bytes(4)),
        ("PCR_Extend", (8,), bytes(4)),
        ("PCR_Event", (0,), bytes(2)),
        ("SelfTest", (), b"\x01"),
        ("GetCapability", (), struct.pack(">III", 0x100, 0, 1)),
        ("CreatePrimary", (ENDORSEMENT,), bytes(12)),
        ("PolicySecret", (ENDORSEMENT, 0x03000000), bytes(10)),
        ("ContextLoad", (), struct.pack(">QIIH4s", 1, 0x80000000, 0x4000000B, 4, b"blob")),
        ("ContextSave", (ROOT_HANDLE,), b""),
        ("ReadPublic", (ROOT_HANDLE,), b""),
        ("NV_ReadPublic", (CHAIN_INDICES[0],), b""),
    ],
)
def test_a_parameter_reaches_no_more_than_a_handle(
    name: str, handles: tuple[int, ...], parameters: bytes, tpm: RecordingTpm
) -> None:
    # Given a command whose parameters name what is the Manager's, or everybody's
    gate = gate_to(tpm)
    row = TABLE[CODES[name]]

    # When it is sent
    answer = gate.execute(command(row.code, handles, parameters, [NO_AUTH] * row.authorizations))

    # Then it is refused, and the TPM does not hear of it
    assert code_of(answer) >> 16 == 0x000B
    assert not tpm.asked


@pytest.mark.parametrize(
    ("index", "attributes", "size"),
    [
        (CHAIN_INDICES[0], 0x00040004, 8),  # the Manager's
        (0x01500010, 0x00040004, 8),  # after the granted range
        (EK_CERTIFICATE, 0x00040004, 8),
        (0x01500000, 0x00040004, 513),  # larger than granted
        (0x01500000, 0x40040004, 8),  # TPMA_NV_PLATFORMCREATE
        (0x01500000, 0x00040404, 8),  # TPMA_NV_POLICY_DELETE: its owner could not remove it
    ],
)
def test_an_index_beyond_the_grant_is_not_defined(
    index: int, attributes: int, size: int, tpm: RecordingTpm
) -> None:
    # Given a definition that goes beyond what the broker may have
    public = struct.pack(">IHIHH", index, 0x000B, attributes, 0, size)
    parameters = bytes(2) + len(public).to_bytes(2) + public
    gate = gate_to(tpm)

    # When it is sent
    answer = gate.execute(command(CODES["NV_DefineSpace"], [0x40000001], parameters, [NO_AUTH]))

    # Then it is refused
    assert code_of(answer) >> 16 == 0x000B
    assert not tpm.asked


def test_the_managers_root_made_again_is_flushed_at_once(tpm: RecordingTpm) -> None:
    # Given a TPM that gives a key with the Name of the Manager's root
    gate = gate_to(tpm)
    tpm.answers = iter([b"\x00\x22" + ROOT_NAME])

    # When the broker makes a primary key
    answer = gate.execute(create_primary())

    # Then the broker does not get it, and it is not loaded any more
    assert code_of(answer) == 0x000B018B
    assert [TABLE[code_of(each)].name for each in tpm.asked] == ["CreatePrimary", "FlushContext"]


def test_slots_and_sessions_are_left_to_the_manager(tpm: RecordingTpm) -> None:
    # Given a broker that loads and starts as much as it can
    gate = gate_to(tpm)
    load = command(CODES["HashSequenceStart"], [], b"\x00\x00\x00\x0b")
    start = command(CODES["StartAuthSession"], [0x40000007] * 2, bytes(32))

    # When it goes on, saving sessions to start more
    loaded = [code_of(gate.execute(load)) for _ in range(10)]
    started = 0
    for _ in range(100):
        answer = gate.execute(start)
        if code_of(answer):
            break
        started += 1
        gate.execute(command(CODES["ContextSave"], [int.from_bytes(answer[10:14])]))

    # Then one slot of each kind stays free, and sessions are left
    assert loaded.count(0) == OBJECTS_MOST
    assert started == ACTIVE_MOST < 64
    assert [code_of(gate.execute(start)) for _ in range(2)] == [0x000B0905] * 2


def test_three_sessions_are_loaded_at_most(tpm: RecordingTpm) -> None:
    # Given a broker that keeps what it starts
    gate = gate_to(tpm)
    start = command(CODES["StartAuthSession"], [0x40000007] * 2, bytes(32))

    # When it starts sessions
    codes = [code_of(gate.execute(start)) for _ in range(5)]

    # Then the fourth is refused
    assert codes == [0] * SESSIONS_MOST + [0x000B0903] * 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_arrives_only_its_own_goes_on(data: st.DataObject) -> None:
    # Given a gate, and a broker
    tpm = RecordingTpm()
    gate = gate_to(tpm)
    handles = st.sampled_from([0x80000000, 0x80000001, 0x02000001, 0x40000001, 0x01500000, 16])
    handles |= st.sampled_from(NOT_GRANTED)
    for _ in range(data.draw(st.integers(1, 12))):
        row = data.draw(st.sampled_from(sorted(TABLE.values(), key=lambda row: row.code)))
        auths = [
            struct.pack(">IHBH", handle, 0, data.draw(st.integers(0, 255)), 0)
            for handle in data.draw(
                st.lists(st.sampled_from([PASSWORD, 0x02000001, 0x03000009]), max_size=3)
            )
        ]
        tpm.asked.clear()

        # When it sends any command with any handles, parameters and authorizations
        area = [data.draw(handles) for _ in row.places]
        gate.execute(command(row.code, area, data.draw(st.binary(max_size=48)), auths))

        # Then what reaches the TPM is no refused command, and names what is the broker's alone
        for sent in tpm.asked:
            request = parse_request(sent)
            assert request.row.rule is not Rule.REFUSE
            for handle in (*request.handles, *request.sessions):
                assert handle not in MANAGERS
                assert handle >> 24 not in (0x80, 0x02, 0x03) or handle in tpm.given
