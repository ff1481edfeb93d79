"""The way to the physical TPM: one descriptor, spoken over by tpm2-pytss, whose errors become ours.

The same class serves a device that is opened exclusively and the socket of an embedded swtpm.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

os.environ.setdefault("TSS2_LOG", "all+none")  # what fails is raised; the library prints it too

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.errors import HostError

RESPONSE_SIZE: Final = 4096
HEADER_SIZE: Final = 10
RC_LAYER_MASK: Final = 0xFFFF0000  # 0: the TPM itself answered so (TSS 2.0 overview, 3.4)


class DescriptorTcti(tss.PyTCTI):  # type: ignore[misc]  # the library's class is not annotated
    """Commands and responses over one descriptor: a TPM character device, or a socket."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(max_size=RESPONSE_SIZE)
        self._descriptor = descriptor

    def do_transmit(self, command: bytes) -> None:
        """Write one whole command."""
        os.write(self._descriptor, command)

    def do_receive(self, timeout: int) -> bytes:
        """Read one whole response, however long it takes; a socket may give it in parts."""
        response = b""
        while len(response) < HEADER_SIZE or len(response) < int.from_bytes(response[2:6]):
            more = os.read(self._descriptor, RESPONSE_SIZE)
            if not more:
                raise ConnectionResetError
            response += more
        return response


class PtpmFailed(HostError):
    """The pTPM, or the way to it, failed; `number` is its response code, 0 where it gave none."""

    def __init__(self, code: str, problem: str, *, hint: str, number: int) -> None:
        super().__init__(code, problem, hint=hint)
        self.number = number


class Esys:
    """ESAPI, with its errors as `PtpmFailed`."""

    def __init__(self, descriptor: int) -> None:
        self._esapi = tss.ESAPI(DescriptorTcti(descriptor))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._esapi, name)

        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return method(*arguments, **named)
            except tss.TSS2_Exception as error:
                raise _failure(name, error) from error

        return call


def _failure(what: str, error: tss.TSS2_Exception) -> PtpmFailed:
    if error.rc & RC_LAYER_MASK:
        return PtpmFailed(
            "TDM-PTPM-GONE",
            f"the pTPM does not answer {what}: {error}",
            hint="start the host again; an embedded pTPM says in run/swtpm.log why it ended",
            number=0,
        )
    if error.error == tss.TPM2_RC.FAILURE:
        return PtpmFailed(
            "TDM-PTPM-FAILURE-MODE",
            f"the pTPM is in failure mode and refuses {what}",
            hint="make room on the disk for an embedded pTPM; a hardware one needs a power cycle",
            number=error.error,
        )
    return PtpmFailed(
        "TDM-PTPM-FAILED",
        f"the pTPM fails {what} with {error.rc:#x}: {error}",
        hint="Tandem needs its owner and endorsement hierarchies enabled, without authorization",
        number=error.error,
    )
