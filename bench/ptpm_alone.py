"""The pTPM's own time for a quote: the same command as the Manager's, with nobody between.

Its bytes are ready and its answer is not parsed, so that no library counts as the pTPM's time.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final, Self

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.manager.tcti import DescriptorTcti
from tandem.wire import tpm_commands

REGISTERS: Final = (8, 9)
FIRST_TRANSIENT: Final = 0x80000000
ANSWER_SIZE: Final = 4096
ATTRIBUTES: Final = (
    tss.TPMA_OBJECT.FIXEDTPM
    | tss.TPMA_OBJECT.FIXEDPARENT
    | tss.TPMA_OBJECT.SENSITIVEDATAORIGIN
    | tss.TPMA_OBJECT.USERWITHAUTH
    | tss.TPMA_OBJECT.SIGN_ENCRYPT
    | tss.TPMA_OBJECT.RESTRICTED
    | tss.TPMA_OBJECT.NODA
)


class PtpmAlone:
    """A restricted ECDSA P-256 key of our own in the same pTPM."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(path))
        self._esys = tss.ESAPI(DescriptorTcti(self._sock.fileno()))
        template = tss.TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=ATTRIBUTES)
        self._key, *_ = self._esys.create_primary(None, template, tss.ESYS_TR.NULL)
        self._quote = tpm_commands.quote(FIRST_TRANSIENT, b"", bytes(32), REGISTERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._esys.flush_context(self._key)
        self._esys.close()
        self._sock.close()

    def quote_milliseconds(self) -> float:
        """Quote once; gives milliseconds."""
        begun = time.perf_counter()
        self._sock.sendall(self._quote)
        answer = self._sock.recv(ANSWER_SIZE)
        taken = time.perf_counter() - begun
        if answer[6:10] != bytes(4):
            raise RuntimeError(f"the pTPM does not quote: {answer.hex()}")
        return 1000 * taken
