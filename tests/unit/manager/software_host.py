"""A Manager's host without any TPM: software keys, and an anchor in memory."""

from __future__ import annotations

import datetime
import hashlib
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tandem.errors import HostError, Refused, TandemError
from tandem.evidence.host_approval import Approval, PublicKey, authorized_policy, check_approval
from tandem.evidence.host_state import HostState
from tandem.evidence.signers import Signers
from tandem.evidence.tpm_types import Algorithm, Attribute
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tandem.manager import records
from tandem.manager.ca import Authority, TpmSigningKey
from tandem.manager.groups import Groups, GroupTerms, found_group
from tandem.manager.host import Host
from tandem.manager.identity import FORMAT, Identity
from tandem.manager.ptpm import KeyBlob, Ptpm, PtpmQuote, SignDigest
from tandem.manager.store import Store
from tandem.manager.vtpms import Vtpms
from tandem.settings import HostPaths
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
    version: int = 0
    writes: int = 0

    def read_chain(self) -> bytes:
        return self.value

    def extend_chain(self, data: bytes) -> None:
        if self.broken:
            raise HostError("TDM-PTPM-GONE", "the pTPM is gone", hint="start again")
        self.value = hashlib.sha256(self.value + data).digest()
        self.extends += 1

    def noted(self) -> tuple[int, int]:
        return self.version, self.writes

    def note(self, version: int, writes: int) -> None:
        self.version, self.writes = version, writes


@dataclass
class SoftwarePtpm(MemoryAnchor):
    """Quotes by echoing what it is asked to qualify, when it may, or fails as it is told."""

    ak_public: bytes = b""
    quotes: int = 0
    quoting: threading.Event = field(default_factory=threading.Event)
    may_quote: threading.Event = field(default_factory=threading.Event)
    failure: TandemError | None = None
    registers: dict[int, bytes] = field(
        default_factory=lambda: {index: hashlib.sha256(bytes([index])).digest() for index in (8, 9)}
    )
    keys: dict[bytes, tuple[ec.EllipticCurvePrivateKey, bytes]] = field(default_factory=dict)
    sealed: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    signatures: int = 0

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

    def read_state(self, registers: Iterable[int]) -> HostState:
        return HostState(banks={"sha256": {index: self.registers[index] for index in registers}})

    def create_ca_key(self, auth: Secret) -> KeyBlob:
        key, name = ec.generate_private_key(ec.SECP256R1()), secrets.token_bytes(16)
        self.keys[name] = key, auth.reveal()
        return KeyBlob(public=_sized(vtpm_ak_public(key.public_key())), private=name)

    @contextmanager
    def loaded_signer(self, blob: KeyBlob, auth: Secret) -> Iterator[SignDigest]:
        key, needed = self.keys[blob.private]
        if self.failure is not None:
            raise self.failure
        if auth.reveal() != needed:
            raise HostError("TDM-PTPM-FAILED", "a wrong authValue", hint="none")

        def sign(digest: bytes) -> tuple[int, int]:
            self.signatures += 1
            made = key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
            return utils.decode_dss_signature(made)

        yield sign

    def change_auth(self, blob: KeyBlob, old: Secret, new: Secret) -> KeyBlob:
        key, needed = self.keys[blob.private]
        assert old.reveal() == needed
        changed = KeyBlob(public=blob.public, private=secrets.token_bytes(16))
        self.keys[changed.private] = key, new.reveal()
        return changed

    def seal(self, secret: Secret, *, policy: bytes) -> KeyBlob:
        name = secrets.token_bytes(16)
        self.sealed[name] = secret.reveal(), policy
        return KeyBlob(public=b"", private=name)

    def unseal(self, blob: KeyBlob, approval: Approval, key: PublicKey) -> Secret:
        secret, policy = self.sealed[blob.private]
        check_approval(approval, key)
        holds = self.read_state(approval.state.registers) == approval.state
        if not holds or policy != authorized_policy(key, approval.subject, approval.generation):
            raise Refused("TDM-SEALED-FOR-ANOTHER-STATE", "the policy does not hold", hint="none")
        return Secret(secret)


def software_authority(group: str = records.DEFAULT_GROUP) -> Authority:
    """Make a CA whose key is in this process, behind the same interface as the TPM's."""
    key = ec.generate_private_key(ec.SECP256R1())

    def sign(digest: bytes) -> tuple[int, int]:
        signature = key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        return utils.decode_dss_signature(signature)

    return Authority(group, TpmSigningKey(key.public_key(), sign))


def software_host(
    directory: Path, approver: ec.EllipticCurvePrivateKey | None = None
) -> tuple[Host, SoftwarePtpm]:
    """Make a host with nothing but its own group, and give its pTPM."""
    approver = approver or ec.generate_private_key(ec.SECP256R1())
    ptpm = SoftwarePtpm(ak_public=ak())
    ptpm.may_quote.set()
    store = Store.create(directory / "store.sqlite", Secret(bytes(32)), ptpm)
    real = cast("Ptpm", ptpm)
    groups = Groups(store, real, lambda: NOW, approver.public_key())
    groups.keep(
        records.DEFAULT_GROUP,
        found_group(real, GroupTerms(name=records.DEFAULT_GROUP, authority=None), NOW),
    )
    store.commit()
    groups.opened(records.DEFAULT_GROUP)
    host = Host(
        paths=HostPaths(directory),
        identity=_identity(ptpm, approver.public_key()),
        record=records.HostRecord(
            ek=rsa_ek(),
            ek_certificate=b"",
            ek_chain=(),
            epoch=1,
            rollback_window=0,
            wear_budget=100_000,
            ticket_key=bytes(32),
        ),
        ptpm=real,
        store=store,
        groups=groups,
        vtpms=Vtpms(store),
        log=b"a log",
    )
    return host, ptpm


def _identity(ptpm: SoftwarePtpm, approver: PublicKey) -> Identity:
    return Identity(
        format=FORMAT,
        generation=1,
        slot=0,
        epoch=1,
        ptpm="embedded",
        registers=tuple(sorted(ptpm.registers)),
        approval_key=approver.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        root_name=b"",
        ak_public=b"",
        ak_private=b"",
        sealed_public=b"",
        sealed_private=b"",
        recovery=b"",
        proof=b"",
    )


SIGNERS = Signers(key_ids=("a key",), threshold=1)


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
        library="main",
        signers=("a key",),
        successors=("a key",),
        threshold=1,
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
