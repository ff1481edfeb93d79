"""A plain swtpm that quotes, beside a naive verifier: it takes a known key, nonce and registers."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives import serialization

from tandem.appraisal.quotes import signature_holds
from tandem.evidence.attest import Quote, parse_quote
from tandem.evidence.tpm_types import Public, parse_public, parse_signature
from tandem.evidence.vtpm_ak import vtpm_ak_template
from tandem.wire import tpm_commands as tpm
from tests.attacks.tpm import Tpm, done, read_public

NONCE = bytes(range(32))
REGISTERS = (0, 7)
GOOD_BOOT = MappingProxyType(
    {  # what a good guest's boot loader extends, by register
        register: hashlib.sha256(what).digest()
        for register, what in ((8, b"command line"), (9, b"kernel"))
    }
)


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """A quote and who signed it, as a naive verifier sees them."""

    ak: Public
    quote: Quote
    holds: bool
    attest: bytes
    signature: bytes

    def passes_checkquote(self, directory: Path) -> bool:
        """Ask stock tpm2_checkquote about signature and nonce."""
        pem = self.ak.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for name, content in (("key", pem), ("msg", self.attest), ("sig", self.signature)):
            (directory / name).write_bytes(content)
        checked = subprocess.run(
            ["tpm2_checkquote", "-u", "key", "-m", "msg", "-s", "sig", "-q", NONCE.hex()],
            cwd=directory, capture_output=True, check=False,
        )  # fmt: skip
        return checked.returncode == 0


def measure(client: Tpm, digests: Mapping[int, bytes] = GOOD_BOOT) -> None:
    """Extend digests: a good boot's by default, whoever it is that extends them."""
    for register, digest in digests.items():
        done(client, tpm.pcr_extend(register, {tpm.SHA256: digest}))


def quoted(client: Tpm, registers: Sequence[int] = REGISTERS, qualifying: bytes = NONCE) -> Quoted:
    """Make the AK of the fixed template again, and quote for the verifier's nonce."""
    made = done(client, tpm.create_primary(tpm.ENDORSEMENT, vtpm_ak_template()), with_handle=True)
    public = done(client, read_public(made.handle)).parameters
    ak = parse_public(public[2 : 2 + int.from_bytes(public[:2])])
    answer = done(client, tpm.quote(made.handle, b"", qualifying, registers)).parameters
    done(client, tpm.flush_context(made.handle))
    end = 2 + int.from_bytes(answer[:2])
    attest, signature = answer[2:end], answer[end:]
    quote = parse_quote(attest)
    holds = signature_holds(ak.key, parse_signature(signature), attest)
    return Quoted(
        ak=ak,
        quote=quote,
        holds=holds and quote.qualifying_data == qualifying,
        attest=attest,
        signature=signature,
    )
