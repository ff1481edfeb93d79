"""A plain swtpm that quotes, beside a naive verifier: it takes a known key, nonce and registers."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.appraisal.quotes import signature_holds
from tandem.evidence.attest import Quote, parse_quote
from tandem.evidence.tpm_types import Public, parse_public, parse_signature
from tandem.evidence.vtpm_ak import vtpm_ak_template
from tandem.wire import tpm_commands as tpm
from tests.attacks.tpm import Tpm, done, read_public

NONCE = bytes(range(32))
REGISTERS = (0, 7)


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """A quote and who signed it, as a naive verifier sees them."""

    ak: Public
    quote: Quote
    holds: bool


def quoted(client: Tpm) -> Quoted:
    """Make the AK of the fixed template again, and quote for the verifier's nonce."""
    made = done(client, tpm.create_primary(tpm.ENDORSEMENT, vtpm_ak_template()), with_handle=True)
    public = done(client, read_public(made.handle)).parameters
    ak = parse_public(public[2 : 2 + int.from_bytes(public[:2])])
    answer = done(client, tpm.quote(made.handle, b"", NONCE, REGISTERS)).parameters
    done(client, tpm.flush_context(made.handle))
    end = 2 + int.from_bytes(answer[:2])
    attest, signature = answer[2:end], answer[end:]
    quote = parse_quote(attest)
    holds = signature_holds(ak.key, parse_signature(signature), attest)
    return Quoted(ak=ak, quote=quote, holds=holds and quote.qualifying_data == NONCE)
