"""Evidence of this guest: a deep quote from the TPM's mailbox, and the logs that explain it.

The result is one JSON object: `format`, `answer` (base64 of the answer indices as `tpm2_nvread`
gives them, header included), `kernel_release`, and `firmware_log` (base64) where there is one.
"""

from __future__ import annotations

import binascii
import os
import struct

from .failure import AttesterError
from .guest_tpm import MAX_NV_BUFFER, GuestTpm, ResponseCodeError
from .request import Request
from .response_codes import HANDLE, NV_UNINITIALIZED, base_code, response_code_name

FORMAT = "tandem-evidence-1"
REQUEST_INDEX = 0x01400101
ANSWER_INDICES = range(0x01400110, 0x01400118)
ANSWER_HEADER = struct.Struct(">4sII")  # magic, status (a TPM_RC), length of what follows
ANSWER_MAGIC = b"TDQ1"
FIRMWARE_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"
ATTEMPTS = 3


def collect(tpm: GuestTpm, request: Request, firmware_log: str = FIRMWARE_LOG) -> dict[str, str]:
    """Ask the TPM and gather what belongs to its answer."""
    evidence = {
        "format": FORMAT,
        "answer": _base64(deep_quote(tpm, request)),
        "kernel_release": os.uname().release,
    }
    try:
        with open(firmware_log, "rb") as log:
            evidence["firmware_log"] = _base64(log.read())
    except FileNotFoundError:
        pass  # this guest was started without firmware that measures
    except OSError as error:
        raise AttesterError(
            "TDM-ATTESTER-FIRMWARE-LOG",
            f"cannot read {firmware_log}: {error.strerror}",
            hint="run the attester as root, with securityfs mounted",
        ) from error
    return evidence


def deep_quote(tpm: GuestTpm, request: Request) -> bytes:
    """Write the request to the mailbox and read the framed answer to it.

    Another program of the guest may ask in between; its answer lacks this nonce, so ask again.
    """
    try:
        for _ in range(ATTEMPTS):
            tpm.nv_write(REQUEST_INDEX, request.encode())
            answer = read_answer(tpm)
            if request.nonce in answer:
                return answer
    except ResponseCodeError as error:
        raise _no_answer(error) from error
    raise AttesterError(
        "TDM-ATTESTER-MAILBOX-BUSY",
        f"{ATTEMPTS} answers in a row were to somebody else's requests",
        hint="let one program of the guest ask at a time",
    )


def read_answer(tpm: GuestTpm) -> bytes:
    """Read the answer indices as far as the answer goes, header included."""
    header = tpm.nv_read(ANSWER_INDICES[0], ANSWER_HEADER.size, 0)
    magic, status, length = ANSWER_HEADER.unpack(header)
    index_size = tpm.nv_size(ANSWER_INDICES[0])
    total = ANSWER_HEADER.size + length
    if magic != ANSWER_MAGIC or total > index_size * len(ANSWER_INDICES):
        raise AttesterError(
            "TDM-ATTESTER-BAD-ANSWER",
            "the mailbox holds something else than an answer",
            hint="this vTPM is of another version than its attester",
        )
    answer = b"".join(
        tpm.nv_read(ANSWER_INDICES[start // index_size], size, start % index_size)
        for start, size in _pieces(total, index_size)
    )
    if status:
        raise AttesterError(
            "TDM-ATTESTER-NOT-QUOTED",
            f"the vTPM made no deep quote: {response_code_name(status)},"
            f" {answer[ANSWER_HEADER.size :][:200]!a}",
            hint="what is wrong is on the host: look at the TPM Manager's log there",
        )
    return answer


def _pieces(total: int, index_size: int) -> list[tuple[int, int]]:
    """Part `total` bytes into reads (start, size) that stay within one index each."""
    pieces = []
    start = 0
    while start < total:
        size = min(MAX_NV_BUFFER, index_size - start % index_size, total - start)
        pieces.append((start, size))
        start += size
    return pieces


def _no_answer(error: ResponseCodeError) -> AttesterError:
    if base_code(error.code) in (HANDLE, NV_UNINITIALIZED):
        return AttesterError(
            "TDM-ATTESTER-NO-MAILBOX",
            f"this TPM has no mailbox: {error}",
            hint="run the attester in a guest of Tandem; another TPM makes no deep quotes",
        )
    return AttesterError(
        "TDM-ATTESTER-TPM-REFUSED", f"the TPM refused: {error}", hint="look the code up in its name"
    )


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
