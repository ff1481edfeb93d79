"""A Manager's host without any TPM: software keys, and an anchor in memory."""

from __future__ import annotations

import datetime
import hashlib
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tandem.errors import HostError
from tandem.evidence.tpm_types import Algorithm, Attribute
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tandem.manager import records
from tandem.manager.ca import Authority, TpmSigningKey
from tandem.manager.host import Host
from tandem.manager.identity import FORMAT, Identity
from tandem.manager.ptpm import Ptpm, PtpmQuote
from tandem.manager.store import Store
from tandem.values import Secret
from tandem.wire.manager_rpc import OpenPair

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
EK_ATTRIBUTES = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.ADMIN_WITH_POLICY
    | Attribute.RESTRICTED
    | Attribute.DECRYPT
)


@dataclass
class MemoryAnchor:
    """What the pTPM's index does; `broken` makes it fail before it extends."""

    value: bytes = bytes(32)
    extends: int = 0
    broken: bool = False

    def read_chain(self) -> bytes:
        return self.value

    def extend_chain(self, data: bytes) -> None:
        if self.broken:
            raise HostError("TDM-PTPM-GONE", "the pTPM is gone", hint="start again")
        self.value = hashlib.sha256(self.value + data).digest()
        self.extends += 1


@dataclass
class SoftwarePtpm(MemoryAnchor):
    """Quotes by echoing what it is asked to qualify, when it may, or fails as it is told."""

    ak_public: bytes = b""
    quotes: int = 0
    quoting: threading.Event = field(default_factory=threading.Event)
    may_quote: threading.Event = field(default_factory=threading.Event)
    failure: HostError | None = None
    registers: dict[int, bytes] = field(default_factory=lambda: {8: bytes(32), 9: bytes(32)})

    def quote(self, qualifying_data: bytes, registers: tuple[int, ...]) -> PtpmQuote:
        self.quoting.set()
        self.may_quote.wait(10)
        if self.failure is not None:
            raise self.failure
        self.quotes += 1
        pcrs = {index: self.registers[index] for index in registers}
        return PtpmQuote(attest=qualifying_data, signature=b"signature", pcrs=pcrs)

    def activate_credential(self, *_: object) -> bytes:
        raise self.failure or AssertionError("no challenge is expected")

    def read_pcrs(self, registers: tuple[int, ...]) -> dict[int, bytes]:
        return {index: self.registers[index] for index in registers}


def software_authority(group: str = records.DEFAULT_GROUP) -> Authority:
    """Make a CA whose key is in this process, behind the same interface as the TPM's."""
    key = ec.generate_private_key(ec.SECP256R1())

    def sign(digest: bytes) -> tuple[int, int]:
        signature = key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        return utils.decode_dss_signature(signature)

    return Authority(group, TpmSigningKey(key.public_key(), sign))


def software_host(directory: Path) -> tuple[Host, SoftwarePtpm]:
    """Make a host with an empty store, and give its pTPM."""
    authority = software_authority()
    ptpm = SoftwarePtpm(ak_public=ak())
    ptpm.may_quote.set()
    store = Store.create(directory / "store.sqlite", Secret(bytes(32)), ptpm)
    certificate = authority.own_certificate(NOW)
    group = records.GroupRecord(ca_certificate=certificate)
    store.stage(records.group_id(records.DEFAULT_GROUP), records.encode(group))
    store.commit()
    identity = Identity(
        format=FORMAT,
        ptpm="embedded",
        pcrs=dict(ptpm.registers),
        ak_public=b"",
        ak_private=b"",
        ca_public=b"",
        ca_private=b"",
        sealed_public=b"",
        sealed_private=b"",
    )
    host = Host(
        identity=identity,
        record=records.HostRecord(ek=rsa_ek(), ek_certificate=b""),
        ptpm=cast("Ptpm", ptpm),
        store=store,
        authority=authority,
        ca_certificate=certificate,
        log=b"a log",
    )
    return host, ptpm


def open_pair(vtpm: str = "web", *, guest: str = "web", ephemeral: bool = False) -> OpenPair:
    """Give what a builder asks."""
    return OpenPair(
        guest=guest,
        vtpm=vtpm,
        group=records.DEFAULT_GROUP,
        ephemeral=ephemeral,
        launch_log_digest=b"l" * 32,
        hypervisor="qemu 7.2",
        builder="tandem 0.1",
        manifest_digest=b"m" * 32,
        manifest_version=7,
        signers=("a key",),
    )


def ak() -> bytes:
    """Give the TPMT_PUBLIC of a new AK."""
    return vtpm_ak_public(ec.generate_private_key(ec.SECP256R1()).public_key())


def rsa_ek() -> bytes:
    """Give the TPMT_PUBLIC of an RSA-2048 EK; its modulus has no known factors."""
    modulus = secrets.randbits(2048) | 1 << 2047 | 1
    scheme = Algorithm.NULL.to_bytes(2) + (2048).to_bytes(2) + bytes(4)
    return _storage_key(Algorithm.RSA) + scheme + _sized(modulus.to_bytes(256))


def ecc_ek() -> bytes:
    """Give the TPMT_PUBLIC of an ECC P-256 EK."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    scheme = Algorithm.NULL.to_bytes(2) + (3).to_bytes(2) + Algorithm.NULL.to_bytes(2)
    points = _sized(numbers.x.to_bytes(32)) + _sized(numbers.y.to_bytes(32))
    return _storage_key(Algorithm.ECC) + scheme + points


def _storage_key(kind: Algorithm) -> bytes:
    head = kind.to_bytes(2) + Algorithm.SHA256.to_bytes(2) + EK_ATTRIBUTES.to_bytes(4)
    aes = Algorithm.AES.to_bytes(2) + (128).to_bytes(2) + Algorithm.CFB.to_bytes(2)
    return head + _sized(bytes(32)) + aes


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data
