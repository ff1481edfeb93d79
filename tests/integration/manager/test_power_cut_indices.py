"""What NV indices hold after a power cut: why the store's anchor is an extend that is not orderly.

These are facts about the TPM (here swtpm), which ADR 0008 decides by.
"""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tpm2_pytss as tss  # type: ignore[import-untyped]

from peers.faulty_tpm import FaultyTpm
from tandem.manager.tcti import DescriptorTcti
from tests.integration.manager.running_manager import ready

pytestmark = pytest.mark.skipif(not ready(), reason="needs swtpm")
INDEX = 0x01500001
ORDERLY = tss.TPMA_NV.ORDERLY
EXTEND, ORDINARY, COUNTER = tss.TPM2_NT.EXTEND, tss.TPM2_NT.ORDINARY, tss.TPM2_NT.COUNTER
DATA = b"d" * 32
EXTENDED = hashlib.sha256(hashlib.sha256(bytes(32) + DATA).digest() + DATA).digest()


@contextmanager
def connected(tpm: FaultyTpm) -> Iterator[tss.ESAPI]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tpm.path))
        esys = tss.ESAPI(DescriptorTcti(sock.fileno()))
        yield esys
        esys.close()


def define(esys: tss.ESAPI, kind: int, attributes: int) -> None:
    by_auth = tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE | tss.TPMA_NV.NO_DA
    public = tss.TPMS_NV_PUBLIC(
        nvIndex=INDEX,
        nameAlg=tss.TPM2_ALG.SHA256,
        attributes=tss.TPMA_NV((kind << tss.TPMA_NV.TPM2_NT_SHIFT) | by_auth | attributes),
        dataSize=8 if kind == COUNTER else 32,
    )
    esys.nv_define_space(tss.TPM2B_AUTH(b""), tss.TPM2B_NV_PUBLIC(nvPublic=public))


def write(esys: tss.ESAPI, kind: int) -> None:
    index = esys.tr_from_tpmpublic(INDEX)
    data = tss.TPM2B_MAX_NV_BUFFER(DATA)
    if kind == COUNTER:
        esys.nv_increment(index, index)
    elif kind == EXTEND:
        esys.nv_extend(index, data, index)
    else:
        esys.nv_write(index, data, 0, index)


def read(esys: tss.ESAPI, kind: int) -> bytes | None:
    """Give what an index holds; None where it holds nothing."""
    index = esys.tr_from_tpmpublic(INDEX)
    try:
        return bytes(esys.nv_read(index, 8 if kind == COUNTER else 32, 0, index))
    except tss.TSS2_Exception as error:
        if error.error != tss.TPM2_RC.NV_UNINITIALIZED:
            raise
        return None


@pytest.mark.parametrize(
    ("kind", "attributes", "kept"),
    [
        (EXTEND, 0, EXTENDED),
        (EXTEND, ORDERLY, None),
        (ORDINARY, 0, DATA),
        (ORDINARY, ORDERLY, None),
        (COUNTER, 0, (2).to_bytes(8)),
        (COUNTER, ORDERLY, (255).to_bytes(8)),
    ],
    ids=["extend", "orderly extend", "ordinary", "orderly ordinary", "counter", "orderly counter"],
)
def test_what_an_index_holds_after_a_power_cut(
    kind: int, attributes: int, kept: bytes | None
) -> None:
    with tempfile.TemporaryDirectory() as directory, FaultyTpm(Path(directory) / "tpm") as tpm:
        # Given an index that was written twice
        with connected(tpm) as esys:
            define(esys, kind, attributes)
            write(esys, kind)
            write(esys, kind)
        # When the power is cut and comes back
        tpm.end()
        tpm.start()
        # Then it holds this
        with connected(tpm) as esys:
            assert read(esys, kind) == kept
