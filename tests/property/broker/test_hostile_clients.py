"""Clients that send anything, on a real TPM: each gets an answer, and the Manager's own stays."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.manager.tpm_templates import AK_HANDLES, CHAIN_INDICES, ROOT_HANDLE
from tandem.wire.broker_rights import Range, Rights
from tandem.wire.tpm_commands import ENDORSEMENT, OWNER, command, get_capability, sized
from tandem.wire.tpm_requests import code_of
from tandem.wire.tpm_table import TABLE
from tests import gated_tpm as tpm
from tests.gated_tpm import NO_AUTH, GatedTpm, SoftwareTpm, ask, handle_of

RIGHTS = Rights(
    hierarchies=frozenset({OWNER, 0x40000007, ENDORSEMENT}),
    extend=frozenset({16}),
    nv=(Range(first=0x01500000, last=0x01500003),),
    nv_size=64,
    persistent=(Range(first=0x81008000, last=0x81008001),),
)
MANAGERS = (ROOT_HANDLE, *AK_HANDLES)
HANDLES = st.sampled_from(
    [
        *(0x80000000, 0x80000001, 0x80000002, 0x02000000, 0x03000000, 0x03000001),
        *(OWNER, ENDORSEMENT, 0x4000000C, 0x4000000A, 0x40000007, 0, 16, 23),
        *(0x01500000, 0x81008000, *MANAGERS, *CHAIN_INDICES, 0x01C00002),
    ]
)
AUTHORIZATIONS = st.just(NO_AUTH) | st.builds(
    lambda handle, attributes: struct.pack(">IHBH", handle, 0, attributes, 0),
    st.sampled_from([0x40000009, 0x02000000, 0x03000000, 0x03000001]),
    st.integers(0, 255),
)
WHOLE = st.sampled_from(
    [
        tpm.create_primary(),
        tpm.create_primary(tpm.ECC_SIGNING, ENDORSEMENT),
        tpm.load_hmac_key(b"key"),
        tpm.load_hmac_key(b"key", b"password", attributes=0),
        tpm.start_policy_session(),
        tpm.start_policy_session(0),
        tpm.start_hash(),
        tpm.save(0x80000000),
        tpm.flush(0x80000000),
        tpm.flush(0x03000000),
    ]
)


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    """Make a command of the table, with handles and authorizations that it may have."""
    row = TABLE[draw(st.sampled_from(sorted(TABLE)))]
    handles = [draw(HANDLES) for _ in row.places]
    auths = [draw(AUTHORIZATIONS) for _ in range(row.authorizations)]
    numbers = st.sampled_from([0, 1, 4, 0x0B, 0x10]).map(lambda number: number.to_bytes(2))
    area = HANDLES.map(lambda handle: handle.to_bytes(4))
    texts = st.binary(max_size=8).map(sized)
    parts = draw(st.lists(numbers | area | texts | st.binary(max_size=4), max_size=6))
    return command(row.code, handles, b"".join(parts), auths)


@pytest.fixture(scope="module", name="shared")
def _shared() -> Iterator[SoftwareTpm]:
    """A TPM with what a Manager keeps: keys at its handles, and an index."""
    with tempfile.TemporaryDirectory() as directory, tpm.software_tpm(Path(directory)) as shared:
        for handle in MANAGERS:
            key = handle_of(shared.transceive(tpm.create_primary(hierarchy=ENDORSEMENT)))
            keep = ask("EvictControl", OWNER, key, parameters=handle.to_bytes(4))
            assert code_of(shared.transceive(keep)) == 0
            shared.transceive(tpm.flush(key))
        public = struct.pack(">IHIHH", CHAIN_INDICES[0], 0x000B, 0x02040044, 0, 32)
        define = ask("NV_DefineSpace", OWNER, parameters=sized(b"auth") + sized(public))
        assert code_of(shared.transceive(define)) == 0
        yield shared


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2]), commands() | WHOLE), max_size=30))
def test_the_manager_keeps_its_own_whatever_clients_send(
    shared: SoftwareTpm, sent: list[tuple[int, bytes]]
) -> None:
    # Given a TPM with the Manager's keys and index, and two clients
    gated = GatedTpm(shared, tpm.everybody(RIGHTS))
    clients = {uid: gated.connect(uid) for uid in (1, 2)}

    # When they send commands of all kinds, right and wrong ones
    for uid, each in sent:
        answer = clients[uid].execute(each)

        # Then each is answered with a TPM response
        assert int.from_bytes(answer[2:6]) == len(answer) >= 10

    # And the Manager's keys, index, hierarchies and slots are as they were, and nobody is locked
    for client in clients.values():
        client.close()
    gated.gate.close()
    for handle in MANAGERS:
        assert code_of(shared.transceive(ask("ReadPublic", handle))) == 0
    assert code_of(shared.transceive(ask("NV_ReadPublic", CHAIN_INDICES[0]))) == 0
    key = handle_of(shared.transceive(tpm.create_primary(hierarchy=ENDORSEMENT)))
    assert code_of(shared.transceive(tpm.flush(key))) == 0
    for first in (0x80000000, 0x02000000, 0x03000000):
        assert not shared.handles(first)
    [counted, most] = struct.unpack(">4I", shared.transceive(get_capability(6, 0x20E, 2))[19:])[
        1::2
    ]
    assert counted < most
