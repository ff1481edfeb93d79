"""What a guest does with its TPM, as the tests need it."""

from __future__ import annotations

import secrets
import struct

from tandem.evidence.deep_quote import (
    DeepQuote,
    DeepQuoteRequest,
    parse_deep_quote,
    unframe_answer,
)
from tandem.vtpm.provisioning import ANSWER_INDEX_SIZE, MAILBOX_ANSWERS, MAILBOX_REQUEST, Nv
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Code, Response, StartupType
from tests.integration.vtpm.pair_harness import PairUnderTest

STORAGE_KEY = (  # TPMT_PUBLIC of an ECC P-256 restricted decryption key, empty policy
    struct.pack(">HHIHHHHHHH", 0x23, 0xB, 0x30072, 0, 6, 128, 0x43, 0x10, 3, 0x10) + bytes(4)
)
READ_SIZE = 1024


class Guest:
    """A guest's commands to its vTPM."""

    def __init__(self, pair: PairUnderTest) -> None:
        self.pair = pair

    def run(self, command: bytes, *, with_handle: bool = False) -> Response:
        """Execute a command, which may fail."""
        return tpm.parse_response(self.pair.execute(command), with_handle=with_handle)

    def code(self, command: bytes) -> int:
        """Execute a command; give its response code."""
        return self.run(command).code

    def start(self) -> None:
        """Start the TPM as firmware does."""
        assert self.code(tpm.startup(StartupType.CLEAR)) == 0

    def register(self, number: int, bank: int = tpm.SHA256) -> bytes:
        """Read a PCR."""
        parameters = self.run(tpm.pcr_read([number], bank)).parameters
        return parameters[-(32 if bank == tpm.SHA256 else 48) :]

    def write_request(self, request: DeepQuoteRequest) -> int:
        """Write the mailbox; give the response code."""
        return self.code(
            tpm.nv_write(MAILBOX_REQUEST, MAILBOX_REQUEST, request.encode(), 0, tpm.password())
        )

    def read_answer(self) -> bytes:
        """Read the answer indices, framed."""
        content = b""
        for index in MAILBOX_ANSWERS:
            for offset in range(0, ANSWER_INDEX_SIZE, READ_SIZE):
                read = self.run(tpm.nv_read(index, index, READ_SIZE, offset, tpm.password()))
                if read.code:
                    return content
                content += read.parameters[2:]
        return content

    def deep_quote(self) -> DeepQuote:
        """Ask for a deep quote through the mailbox, and read it."""
        request = DeepQuoteRequest(nonce=secrets.token_bytes(32))
        assert self.write_request(request) == 0
        quote = parse_deep_quote(unframe_answer(self.read_answer()))
        assert quote.nonce == request.nonce
        return quote

    def deep_quote_by_command(self, request: DeepQuoteRequest) -> bytes:
        """Ask for a deep quote with the vendor command; give its frame."""
        content, body = b"", request.encode()
        while True:
            asked = len(content).to_bytes(4) + body
            parameters = self.run(tpm.command(Code.DEEP_QUOTE, parameters=asked)).parameters
            total, size = struct.unpack_from(">IH", parameters)
            content, body = content + parameters[6 : 6 + size], b""
            if len(content) >= total:
                return content

    def make_key(self, hierarchy: int = tpm.OWNER, auth: bytes = b"") -> int:
        """Make a transient key; give its handle."""
        template = tpm.sized(tpm.sized(b"") + tpm.sized(b"")) + tpm.sized(STORAGE_KEY)
        command = tpm.command(
            Code.CREATE_PRIMARY, (hierarchy,), template + tpm.sized(b"") + bytes(4),
            [tpm.password(auth)],
        )  # fmt: skip
        made = self.run(command, with_handle=True)
        assert made.code == 0, hex(made.code)
        return made.handle

    def define_index(self, index: int, attributes: Nv, size: int = 8) -> int:
        """Define an NV index of the owner's; give the response code."""
        return self.code(tpm.nv_define_space(tpm.OWNER, tpm.nv_public(index, attributes, size)))

    def handles(self, first: int) -> tuple[int, ...]:
        """List the handles in use from `first` on."""
        asked = tpm.get_capability(tpm.CAPABILITY_HANDLES, first, 16)
        parameters = self.run(asked).parameters
        (count,) = struct.unpack_from(">I", parameters, 5)
        return struct.unpack_from(f">{count}I", parameters, 9)
