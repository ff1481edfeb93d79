"""Deep quotes of one pair: the vTPM's own quote, the Manager's half, and both as one answer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tandem.errors import HostError, Refused, UntrustedInput
from tandem.evidence.cursor import Cursor
from tandem.evidence.deep_quote import (
    FORMAT,
    MAX_ANSWER,
    DeepQuote,
    DeepQuoteRequest,
    frame_answer,
    parse_request,
    qualifying_data,
    quote_digest,
)
from tandem.evidence.pair_record import record_digest
from tandem.values import Secret
from tandem.vtpm.ak_certificate import AkCertificate
from tandem.vtpm.authorizations import read_authorizations
from tandem.vtpm.libtpms import CommandFailed, Engine
from tandem.vtpm.manager_client import ManagerClient
from tandem.vtpm.parking import object_slot
from tandem.vtpm.provisioning import AK_HANDLE
from tandem.wire import tpm_commands as tpm
from tandem.wire.manager_rpc import DeepQuoted, Prepared
from tandem.wire.tpm_commands import Rc

READ_AT_ONCE: Final = 8  # digests in one TPML_DIGEST (Part 2, 10.9.5)


@dataclass(frozen=True, kw_only=True)
class VtpmQuote:
    """The vTPM's half: TPMS_ATTEST, TPMT_SIGNATURE, and the registers quoted (SHA-256)."""

    attest: bytes
    signature: bytes
    registers: dict[int, bytes]
    authorizations: bytes


@dataclass(frozen=True, kw_only=True)
class DeepQuoter:
    """Makes the deep quotes of one launch, for mailbox and vendor command alike."""

    engine: Engine
    manager: ManagerClient
    ak_auth: Secret
    prepared: Prepared
    certificate: AkCertificate
    launch_log: bytes

    def framed_answer(self, request: bytes) -> bytes:
        """Give the answer to a guest's request, or its refusal, in the frame of the mailbox."""
        try:
            asked = parse_request(request)
        except UntrustedInput as refusal:
            return frame_answer(str(refusal).encode(), Rc.VALUE_1)
        self.certificate.refresh()
        try:
            quote = self._quote(asked)
        except CommandFailed as failure:  # the AK's hierarchy is disabled, say
            return frame_answer(str(failure).encode(), failure.rc)
        try:
            made = self.manager.deep_quote(quote_digest(quote.attest, quote.signature))
        except (HostError, Refused) as failure:  # the guest may ask again
            return frame_answer(str(failure).encode(), Rc.RETRY)
        answer = self._combine(asked, quote, made).encode()
        if len(answer) > MAX_ANSWER:
            return frame_answer(f"the answer has {len(answer)} bytes".encode(), Rc.FAILURE)
        return frame_answer(answer)

    def _quote(self, request: DeepQuoteRequest) -> VtpmQuote:
        record = record_digest(self.prepared.record)
        authorizations = read_authorizations(self.engine).encode()
        qualifying = qualifying_data(request.nonce, request.user_data, record, authorizations)
        quoting = tpm.quote(AK_HANDLE, self.ak_auth.reveal(), qualifying, request.registers)
        with object_slot(self.engine):
            quoted = self.engine.run(quoting).parameters
        attest = Cursor(quoted, "Quote response").sized("quoted")
        return VtpmQuote(
            attest=attest,
            signature=quoted[2 + len(attest) :],
            registers=self._read_registers(request.registers),
            authorizations=authorizations,
        )

    def _combine(self, request: DeepQuoteRequest, quote: VtpmQuote, made: DeepQuoted) -> DeepQuote:
        prepared = self.prepared
        return DeepQuote(
            format=FORMAT,
            nonce=request.nonce,
            user_data=request.user_data,
            vtpm_attest=quote.attest,
            vtpm_signature=quote.signature,
            vtpm_pcrs=quote.registers,
            authorizations=quote.authorizations,
            record=prepared.record,
            salt=made.salt,
            leaf_index=made.leaf_index,
            tree_size=made.tree_size,
            path=made.path,
            ptpm_attest=made.attest,
            ptpm_signature=made.signature,
            ptpm_pcrs=made.pcrs,
            ak_certificate=self.certificate.certificate,
            issuer_certificate=self.certificate.issuer,
            host_ak=prepared.host_ak,
            launch_log=self.launch_log,
        )

    def _read_registers(self, registers: Sequence[int]) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        for start in range(0, len(registers), READ_AT_ONCE):
            some = registers[start : start + READ_AT_ONCE]
            read = self.engine.run(tpm.pcr_read(some)).parameters
            cursor = Cursor(read, "PCR_Read response")
            cursor.take(struct.calcsize(">IIHB3s"), "update counter and selection")
            cursor.u32("count")
            values.update({register: cursor.sized("digest") for register in some})
        return values
