"""A forge: complete valid evidence from software keys, with every part open to be broken.

It stands in for two TPMs, a Manager and a verifier that enrolled the host.  Each attribute is one
claim of a deep quote; a test changes one of them and asks what the appraisal finds.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tandem.appraisal.anchor import FORMAT as ANCHOR_FORMAT
from tandem.appraisal.anchor import seal_anchor
from tandem.appraisal.appraise import Given, appraise
from tandem.appraisal.policy import Policy, PolicyText
from tandem.appraisal.verdict import Finding, Verdict
from tandem.evidence.authorizations import Authorizations, Standing
from tandem.evidence.bundle import write_evidence
from tandem.evidence.deep_quote import (
    FORMAT,
    DeepQuote,
    frame_answer,
    leaf_hash,
    qualifying_data,
    quote_digest,
)
from tandem.evidence.ek_template import rsa_ek_name
from tandem.evidence.envelope import PrivateKey, seal_envelope
from tandem.evidence.event_log import parse_event_log, write_launch_log, write_log
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.launch import Blob, LaunchEvent
from tandem.evidence.launch_plan import (
    builder_event,
    configuration_event,
    content_events,
    hypervisor_event,
    manifest_event,
    policy_event,
)
from tandem.evidence.manifest import PAYLOAD_TYPE, Manifest, parse_manifest
from tandem.evidence.merkle import tree_paths
from tandem.evidence.pair_record import FORMAT as RECORD_FORMAT
from tandem.evidence.pair_record import PairRecord, record_digest
from tandem.evidence.pcr_values import pcr_digest, replay
from tandem.evidence.tpm_types import parse_public
from tandem.evidence.vtpm_ak import (
    TPM_RH_ENDORSEMENT,
    TPM_RH_PLATFORM,
    qualified_name,
    vtpm_ak_public,
)
from tandem.manager.ca import Authority
from tandem.manager.issuing import IssuingKeys
from tests.unit.evidence.ima_writer import Kernel

NOW = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)
NONCE = bytes(range(32))
MAGIC, ST_QUOTE = 0xFF544347, 0x8018
EV_SEPARATOR = 4
FIRMWARE = 0x0007000200000001  # version
EK = rsa.generate_private_key(65537, 2048).public_key()  # one for all: it takes long
AUTHORIZED = Authorizations(platform=Standing.SET, lockout=Standing.EMPTY)
EcKey = ec.EllipticCurvePrivateKey


def library_file(name: str) -> dict[str, object]:
    content = name.encode()
    return {
        "path": name,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sha384": hashlib.sha384(content).hexdigest(),
    }


def blob(name: str) -> Blob:
    content = name.encode()
    return Blob(
        size=len(content),
        sha256=hashlib.sha256(content).digest(),
        sha384=hashlib.sha384(content).digest(),
    )


def guest_entry(**changes: object) -> dict[str, object]:
    """A guest that boots directly; what is changed of how it boots is named as the rest is."""
    boot: dict[str, object] = {
        "method": "direct",
        "kernel": library_file("vmlinuz"),
        "initrd": library_file("initrd"),
        "command_line": "console=ttyS0 quiet",
        "firmware": library_file("bios-256k.bin"),
        "roms": [library_file("kvmvapic.bin"), library_file("linuxboot_dma.bin")],
        "platform_auth": "firmware",
    }
    entry: dict[str, object] = {
        "kind": "on-request",
        "hypervisor": "qemu",
        "group": "default",
        "vtpm": "persistent",
        "boot": boot | {key: changes.pop(key) for key in list(changes) if key in boot},
        "disks": [],
        "machine": {"type": "q35", "cpu": "max", "cpus": 1, "memory_mib": 256},
    }
    return entry | changes


def library(**changes: object) -> dict[str, object]:
    host = {"kind": "build-once", "role": "host", "files": [library_file("qemu-system-x86_64")]}
    manifest: dict[str, object] = {
        "format": "tandem-library-1",
        "name": "main",
        "version": 7,
        "signers": {"key_ids": ["ab" * 32], "threshold": 1},
        "entries": {"web": guest_entry(), "host": host},
    }
    return manifest | changes


def attest(
    signer: bytes,
    qualifying: bytes,
    pcrs: Mapping[int, bytes],
    counts: tuple[int, int],
    magic: int = MAGIC,
    kind: int = ST_QUOTE,
    time: int = 123456,
    firmware: int = FIRMWARE,
) -> bytes:
    """A TPMS_ATTEST of a quote over the SHA-256 bank."""
    bitmap = sum(1 << index for index in pcrs).to_bytes(3, "little")
    clock = struct.pack(">QIIBQ", time, *counts, 1, firmware)
    selection = struct.pack(">IHB", 1, 0x000B, 3) + bitmap
    sized = [struct.pack(">H", len(each)) + each for each in (signer, qualifying)]
    digest = pcr_digest(pcrs)
    return (
        struct.pack(">IH", magic, kind) + b"".join(sized) + clock + selection
        + struct.pack(">H", len(digest)) + digest
    )  # fmt: skip


def sign(key: EcKey, data: bytes) -> bytes:
    """A TPMT_SIGNATURE by ECDSA with SHA-256."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    sides = (number.to_bytes(32) for number in (r, s))
    return struct.pack(">HH", 0x0018, 0x000B) + b"".join(b"\x00\x20" + side for side in sides)


def kernel_of_the_host() -> Kernel:
    """A kernel that measured two files by IMA."""
    kernel = Kernel()
    kernel.file("boot_aggregate")
    kernel.file("/usr/bin/python3.11")
    return kernel


def host_log_of(*entries: tuple[int, int, bytes]) -> bytes:
    """The host's event log; by default one separator in PCR 0 and 7 each."""
    return write_log(entries or [(0, EV_SEPARATOR, bytes(4)), (7, EV_SEPARATOR, bytes(4))])


def new_key() -> EcKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Forge:
    """Everything that evidence is made from; `evidence()` signs what stands here."""

    nonce: bytes = NONCE
    user_data: bytes = b""
    library: dict[str, Any] = field(default_factory=library)
    entry: str = "web"
    hypervisor: str = "qemu-system-x86_64"
    guest: str = "web-01"
    group: str = "default"
    counts: tuple[int, int] = (3, 1)  # in the vTPM's quote; the record expects (3, 1)
    vtpm_pcrs: dict[int, bytes] | None = None  # else those that the launch log replays to
    host_log: bytes = field(default_factory=host_log_of)
    kernel: Kernel = field(default_factory=kernel_of_the_host)
    host_pcrs: dict[int, bytes] | None = None  # else those that host log and IMA list replay to
    host_counts: tuple[int, int] = (1, 1)  # in the pTPM's quote; the anchor has (1, 1)
    host_clock: int = 123456
    host_firmware: int = FIRMWARE
    vtpm_magic: int = MAGIC
    ptpm_magic: int = MAGIC
    ptpm_kind: int = ST_QUOTE
    hierarchy: int = TPM_RH_PLATFORM
    authorizations: bytes = AUTHORIZED.encode()
    others: int = 3  # leaves of other guests in the batch
    standing: str = "embedded"
    vtpm_ak: EcKey = field(default_factory=new_key)
    vtpm_signer: EcKey | None = None  # else the AK
    ek: rsa.RSAPublicKey = field(default_factory=lambda: EK)
    certified_ek: rsa.RSAPublicKey | None = None  # else ek
    host_ak: EcKey = field(default_factory=new_key)
    host_signer: EcKey | None = None
    enrolled_ak: EcKey | None = None  # else host_ak
    ca: EcKey = field(default_factory=new_key)
    rogue_ca: EcKey | None = None  # that certified the issuing key; else ca
    rogue_issuer: bool = False  # the AK's certificate is by another issuing key than is shown
    issuing_at: datetime.datetime = NOW  # when the issuing key was made
    revoked: tuple[int, ...] = ()  # serial numbers
    revoked_at: datetime.datetime = NOW  # when the list was made
    crl_key: EcKey | None = None  # else ca
    record_changes: dict[str, Any] = field(default_factory=dict)
    answer_changes: dict[str, Any] = field(default_factory=dict)
    events: list[LaunchEvent] | None = None
    launch_log: bytes | None = None  # in the answer; else the one in the record
    policy_changes: dict[str, Any] = field(default_factory=dict)
    library_key: PrivateKey = field(default_factory=PrivateKey.generate)
    verifier_key: PrivateKey = field(default_factory=PrivateKey.generate)
    certified_changes: dict[str, Any] = field(default_factory=dict)  # of the record in its digest
    anchor_changes: dict[str, Any] = field(default_factory=dict)
    state_changes: dict[str, Any] = field(default_factory=dict)  # of the anchor's state
    guest_facts: dict[str, object] = field(default_factory=dict)

    @property
    def payload(self) -> bytes:
        return json.dumps(self.library).encode()

    @property
    def manifest(self) -> Manifest:
        return parse_manifest(self.payload)

    def measured(self) -> list[LaunchEvent]:
        if self.events is not None:
            return self.events
        entry = self.manifest.entries[self.entry]
        assert isinstance(entry, GuestEntry)
        return [
            builder_event("0.1.0", bytes(32)),
            hypervisor_event("qemu", "7.2.22", blob(self.hypervisor)),
            configuration_event(entry, "tcg"),
            policy_event(),
            manifest_event(self.manifest.digest, self.manifest.version, ["key"]),
            *content_events(entry),
        ]

    def registers(self) -> dict[int, bytes]:
        """The host's registers, as they are."""
        if self.host_pcrs is not None:
            return self.host_pcrs
        replayed = replay(parse_event_log(host_log_of()))["sha256"]
        return replayed | {10: self.kernel.values["sha256"]}

    def issuing(self) -> IssuingKeys:
        """The group's issuing keys."""
        return IssuingKeys(Authority("default", self.rogue_ca or self.ca), self.issuing_at)

    def crl(self) -> bytes:
        """The group's revocation list."""
        revoked = {each.to_bytes(20).lstrip(b"\0"): int(NOW.timestamp()) for each in self.revoked}
        authority = Authority("default", self.crl_key or self.ca)
        return authority.revocation_list(revoked, 3, self.revoked_at)

    def record(self) -> PairRecord:
        ak = parse_public(vtpm_ak_public(self.vtpm_ak.public_key()))
        record = PairRecord(
            format=RECORD_FORMAT,
            pair_id=bytes(16),
            vtpm_id=bytes(16),
            vtpm="web-01",
            guest=self.guest,
            group=self.group,
            launch_number=2,
            launch_log_digest=hashlib.sha256(write_launch_log(self.measured())).digest(),
            ek_name=rsa_ek_name(self.ek) or b"",
            ak_name=ak.name,
            reset_count=3,
            restart_count=1,
            hypervisor="qemu 7.2.22",
            builder="0.1.0",
            manifest_digest=self.manifest.digest,
            manifest_version=self.manifest.version,
            host_log_digest=hashlib.sha256(self.host_log).digest(),
            epoch=1,
            rollback_window=0,
            started_at=int(NOW.timestamp()) - 60,
        )
        return replace(record, **self.record_changes)

    def answer(self) -> DeepQuote:
        record = self.record().encode()
        log = write_launch_log(self.measured())
        replayed = replay(parse_event_log(log))["sha256"]
        pcrs = replayed if self.vtpm_pcrs is None else self.vtpm_pcrs
        vtpm_name = parse_public(vtpm_ak_public(self.vtpm_ak.public_key())).name
        qualifying = qualifying_data(
            self.nonce, self.user_data, record_digest(record), self.authorizations
        )
        signer = qualified_name(self.hierarchy, vtpm_name)
        vtpm_attest = attest(signer, qualifying, pcrs, self.counts, magic=self.vtpm_magic)
        vtpm_signature = sign(self.vtpm_signer or self.vtpm_ak, vtpm_attest)
        salt = bytes(range(32))
        leaf = leaf_hash(salt, record_digest(record), quote_digest(vtpm_attest, vtpm_signature))
        leaves = [hashlib.sha256(bytes([each])).digest() for each in range(self.others)] + [leaf]
        root, paths = tree_paths(leaves)
        host_public = vtpm_ak_public(self.host_ak.public_key())
        host_signer = qualified_name(TPM_RH_ENDORSEMENT, parse_public(host_public).name)
        ptpm_attest = attest(
            *(host_signer, root, self.registers(), self.host_counts),
            *(self.ptpm_magic, self.ptpm_kind, self.host_clock, self.host_firmware),
        )
        issuing = self.issuing()
        signing = self.issuing() if self.rogue_issuer else issuing
        certified = replace(self.record(), **self.certified_changes)
        ak_certificate = signing.ak_certificate(self.vtpm_ak.public_key(), certified, NOW)
        answer = DeepQuote(
            format=FORMAT,
            nonce=self.nonce,
            user_data=self.user_data,
            vtpm_attest=vtpm_attest,
            vtpm_signature=vtpm_signature,
            vtpm_pcrs=pcrs,
            authorizations=self.authorizations,
            record=record,
            salt=salt,
            leaf_index=self.others,
            tree_size=len(leaves),
            path=paths[self.others],
            ptpm_attest=ptpm_attest,
            ptpm_signature=sign(self.host_signer or self.host_ak, ptpm_attest),
            ptpm_pcrs=self.registers(),
            ak_certificate=ak_certificate.der,
            issuer_certificate=issuing.attestation,
            host_ak=host_public,
            launch_log=log if self.launch_log is None else self.launch_log,
        )
        return replace(answer, **self.answer_changes)

    def ca_certificate(self) -> bytes:
        return Authority("default", self.ca).own_certificate(NOW)

    def ek_certificates(self) -> bytes:
        """The EK's certificate and those above it, as the vTPM's NV indices have them."""
        issuing = self.issuing()
        issued = issuing.ek_certificate(self.certified_ek or self.ek, self.issuing_at)
        return issued.der + issuing.endorsement + self.ca_certificate()

    def evidence(self) -> bytes:
        return write_evidence(frame_answer(self.answer().encode()), None, self.guest_facts)

    def given(self) -> Given:
        return Given(
            host_log=self.host_log, ima_log=self.kernel.log, ek_certificates=self.ek_certificates()
        )

    def anchor(self) -> bytes:
        ak = vtpm_ak_public((self.enrolled_ak or self.host_ak).public_key())
        fields = {
            "format": ANCHOR_FORMAT,
            "standing": self.standing,
            "ek": vtpm_ak_public(self.ca.public_key()).hex(),
            "ak": ak.hex(),
            "authorities": {"default": self.ca_certificate().hex()},
            "state": {
                "pcrs": {str(index): value.hex() for index, value in self.registers().items()},
                "clock": 123456,
                "reset_count": 1,
                "restart_count": 1,
                "firmware_version": FIRMWARE,
            }
            | self.state_changes,
            "epoch": 1,
            "enrolled_at": 0,
        }
        return seal_anchor(fields | self.anchor_changes, self.verifier_key)

    def policy_text(self) -> PolicyText:
        text = PolicyText(
            anchor_file="anchor.json",
            anchor_key="anchor.pub",
            manifest_file="library.dsse.json",
            manifest_keys=("library.pub",),
            threshold=1,
            entry="web",
            guest="web-01",
            group="default",
            user_data=None,
            hardware_root=False,
            event_log=True,
            ima_violations=(),
            crl_file="default.crl",
            accelerators=("kvm", "tcg"),
            hypervisors=(),
            builders=(bytes(32),),
        )
        return replace(text, **self.policy_changes)

    def policy(self) -> Policy:
        return Policy(
            text=self.policy_text(),
            anchor=self.anchor(),
            anchor_key=self.verifier_key.public_key(),
            manifest=seal_envelope(self.payload, PAYLOAD_TYPE, self.library_key),
            manifest_keys=(self.library_key.public_key(),),
            crl=self.crl(),
        )

    def verdict(
        self, policy: Policy | None = None, nonce: bytes = NONCE, at: datetime.datetime = NOW
    ) -> Verdict:
        return appraise(self.evidence(), policy or self.policy(), nonce, at, self.given())


def finding(verdict: Verdict, rule: str) -> Finding:
    """The one finding of a rule."""
    [found] = [each for each in verdict.findings if each.rule == rule]
    return found
