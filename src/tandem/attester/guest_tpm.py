"""The three NV commands that the mailbox takes, spoken with the guest's TPM device.

Layouts are those of TPM 2.0 Part 3, section 31; every index is authorised with its own empty
password (Part 1, section 19.4).
"""

from __future__ import annotations

import os
import struct

from .failure import AttesterError
from .response_codes import SUCCESS, response_code_name

DEVICE = "/dev/tpmrm0"  # the kernel's resource manager: others may use the TPM meanwhile
MAX_RESPONSE = 4096  # bytes; TPM_BUFSIZE of Linux
MAX_NV_BUFFER = 1024  # bytes moved by one command

TPM_ST_NO_SESSIONS = 0x8001
TPM_ST_SESSIONS = 0x8002
TPM_CC_NV_WRITE = 0x00000137
TPM_CC_NV_READ = 0x0000014E
TPM_CC_NV_READ_PUBLIC = 0x00000169
TPM_RS_PW = 0x40000009
EMPTY_PASSWORD = struct.pack(">IIHBH", 9, TPM_RS_PW, 0, 0, 0)  # size, handle, nonce, flags, hmac
HEADER = struct.Struct(">HII")  # tag, size, command or response code
NV_PUBLIC_START = struct.Struct(">HIHIH")  # size, nvIndex, nameAlg, attributes, size of authPolicy


class ResponseCodeError(Exception):
    """The TPM answered a command with a code other than success."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"{command} got {response_code_name(code)}")
        self.code = code


class GuestTpm:
    """The guest's TPM through its device file."""

    def __init__(self, path: str = DEVICE) -> None:
        try:
            self._device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise AttesterError(
                "TDM-ATTESTER-NO-TPM",
                f"cannot open {path}: {error.strerror}",
                hint="run the attester as root, in a guest with a TPM 2.0",
            ) from error

    def close(self) -> None:
        """Give the device back."""
        os.close(self._device)

    def exchange(self, command: bytes) -> bytes:
        """Send one command and wait for its response."""
        try:
            os.write(self._device, command)
            return os.read(self._device, MAX_RESPONSE)
        except OSError as error:
            raise AttesterError(
                "TDM-ATTESTER-TPM-DEVICE",
                f"the TPM device failed: {error.strerror}",
                hint="the kernel log says more: dmesg | grep -i tpm",
            ) from error

    def nv_size(self, index: int) -> int:
        """TPM2_NV_ReadPublic: the size of an index in bytes."""
        response = self._run("NV_ReadPublic", TPM_CC_NV_READ_PUBLIC, struct.pack(">I", index))
        try:
            *_, policy_size = NV_PUBLIC_START.unpack_from(response)
            (size,) = struct.unpack_from(">H", response, NV_PUBLIC_START.size + policy_size)
        except struct.error:
            raise _broken("NV_ReadPublic") from None
        return int(size)

    def nv_write(self, index: int, data: bytes) -> None:
        """TPM2_NV_Write at offset 0."""
        parameters = struct.pack(">H", len(data)) + data + struct.pack(">H", 0)
        self._run_authorised("NV_Write", TPM_CC_NV_WRITE, index, parameters)

    def nv_read(self, index: int, size: int, offset: int) -> bytes:
        """TPM2_NV_Read: exactly `size` bytes, at most MAX_NV_BUFFER."""
        parameters = struct.pack(">HH", size, offset)
        response = self._run_authorised("NV_Read", TPM_CC_NV_READ, index, parameters)
        data = response[2 : 2 + size]
        if len(data) != size or response[:2] != struct.pack(">H", size):
            raise _broken("NV_Read")
        return data

    def _run_authorised(self, name: str, code: int, index: int, parameters: bytes) -> bytes:
        """Run a command on an index with its empty password; give the response parameters."""
        handles = struct.pack(">II", index, index)  # authHandle, nvIndex
        response = self._run(name, code, handles + EMPTY_PASSWORD + parameters, tag=TPM_ST_SESSIONS)
        return response[4:]  # after parameterSize; the session's part at the end is not read

    def _run(self, name: str, code: int, body: bytes, tag: int = TPM_ST_NO_SESSIONS) -> bytes:
        response = self.exchange(HEADER.pack(tag, HEADER.size + len(body), code) + body)
        if len(response) < HEADER.size:
            raise _broken(name)
        _, size, response_code = HEADER.unpack_from(response)
        if response_code != SUCCESS:
            raise ResponseCodeError(name, response_code)
        if size != len(response):
            raise _broken(name)
        return response[HEADER.size :]


def _broken(name: str) -> AttesterError:
    return AttesterError(
        "TDM-ATTESTER-TPM-RESPONSE",
        f"the TPM's response to {name} breaks its format",
        hint="the kernel log says more: dmesg | grep -i tpm",
    )
