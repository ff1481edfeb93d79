"""A Manager for tests: the real messages and formats, with software keys in place of a pTPM.

It keeps one entry for each vTPM in memory, signs certificates and deep quotes honestly, and can be
told to stall or to hang up.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from tandem import channel
from tandem.channel import Channel, Closed
from tandem.evidence import pair_record
from tandem.evidence.deep_quote import leaf_hash
from tandem.evidence.merkle import tree_paths
from tandem.evidence.pair_record import PairRecord
from tandem.evidence.tpm_types import parse_public
from tandem.values import Secret
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    AskDeepQuote,
    CertifyEks,
    CommitState,
    DeepQuoted,
    EkCertificates,
    Hello,
    OpenPair,
    PairOpened,
    Prepare,
    Prepared,
    Rejoin,
    Rejoined,
    StateCommitted,
    Welcome,
)
from tandem.wire.messages import Message
from tandem.wire.rejoin import rejoin_proof

HOST_REGISTERS = {0: bytes(32), 7: bytes(32)}
ATTEST_QUOTE = 0x8018  # TPM_ST_ATTEST_QUOTE
ECDSA_SHA256 = struct.pack(">HH", 0x0018, 0x000B)


@dataclass
class VtpmEntry:
    """What is kept of one vTPM."""

    vtpm_id: bytes
    key: bytes
    state_key: bytes = b""  # of the newest state
    launch_key: bytes = b""  # of what the newest launch writes
    version: int = 0
    digest: bytes = b""
    launches: int = 0


class ManagerDouble:
    """Keeps vTPMs and answers their channels, each in a thread."""

    def __init__(self) -> None:
        self.entries: dict[str, VtpmEntry] = {}
        self.records: dict[bytes, bytes] = {}
        self.requests: dict[bytes, OpenPair] = {}
        self.may_answer = threading.Event()  # cleared: deep quotes and commits wait
        self.may_answer.set()
        self.swallows = False  # records a state and dies before it says so
        self.commits = 0
        self._ca = ec.generate_private_key(ec.SECP256R1())
        self.host_ak = ec.generate_private_key(ec.SECP256R1())
        self._channels: list[Channel] = []

    def open_pair(self, request: OpenPair) -> tuple[PairOpened, socket.socket]:
        """Open the next launch of a vTPM; give the answer and the vTPM's end of its channel."""
        fresh = VtpmEntry(vtpm_id=secrets.token_bytes(16), key=secrets.token_bytes(32))
        entry = self.entries.setdefault(request.vtpm, fresh)
        entry.launches += 1
        entry.launch_key = secrets.token_bytes(32)
        pair_id = secrets.token_bytes(16)
        self.requests[pair_id] = request
        sock = self._served(entry, request, pair_id, b"")
        return PairOpened(pair_id=pair_id, launch_number=entry.launches), sock

    def rejoin(self, pair_id: bytes) -> tuple[bytes, socket.socket]:
        """Give a nonce and the vTPM's end of a new channel, as the next Manager does."""
        nonce, request = secrets.token_bytes(32), self.requests[pair_id]
        return nonce, self._served(self.entries[request.vtpm], request, pair_id, nonce)

    def _served(
        self, entry: VtpmEntry, request: OpenPair, pair_id: bytes, nonce: bytes
    ) -> socket.socket:
        ours, theirs = channel.pair()
        vtpm = Channel(ours, sends=VTPM_ANSWERS, receives=VTPM_REQUESTS)
        self._channels.append(vtpm)
        serving = threading.Thread(
            target=self._serve, args=(vtpm, entry, request, pair_id, nonce), daemon=True
        )
        serving.start()
        return theirs

    def hang_up(self) -> None:
        """Close every vTPM's channel, as a Manager does that dies."""
        while self._channels:
            each = self._channels.pop()
            with suppress(OSError):  # closed already
                each.sock.shutdown(socket.SHUT_RDWR)

    def _serve(
        self, vtpm: Channel, entry: VtpmEntry, opened: OpenPair, pair_id: bytes, nonce: bytes
    ) -> None:
        try:
            while True:
                message, _ = vtpm.receive()
                if isinstance(message, Rejoin):
                    vtpm.send(self._rejoined(message, entry, pair_id, nonce))
                    continue
                vtpm.send(self._answer(message, entry, opened, pair_id))
        except (Closed, OSError):
            vtpm.close()

    def _answer(
        self, message: Message, entry: VtpmEntry, opened: OpenPair, pair_id: bytes
    ) -> Message:
        match message:
            case Hello():
                return Welcome(
                    pair_id=pair_id,
                    vtpm_id=entry.vtpm_id,
                    vtpm=opened.vtpm,
                    group=opened.group,
                    launch_number=entry.launches,
                    key=entry.key,
                    former_state_key=entry.state_key,
                    state_key=entry.launch_key,
                    state_version=entry.version,
                    state_digest=entry.digest,
                )
            case CertifyEks():
                return EkCertificates(
                    rsa=self._certificate(parse_public(message.rsa).key, "EK"),
                    ecc=self._certificate(parse_public(message.ecc).key, "EK"),
                    chain=self._certificate(self._ca.public_key(), "Test CA"),
                )
            case Prepare():
                return self._prepare(message, entry, opened, pair_id)
            case CommitState():
                self.may_answer.wait()
                entry.version, entry.digest = message.version, message.digest
                entry.state_key = entry.launch_key
                self.commits += 1
                if self.swallows:
                    self.swallows = False
                    self.hang_up()
                return StateCommitted(version=message.version)
            case AskDeepQuote():
                self.may_answer.wait()
                return self._deep_quote(self.records[pair_id], message.vtpm_quote_digest)
            case _:
                raise TypeError(message)

    def _rejoined(self, asked: Rejoin, entry: VtpmEntry, pair_id: bytes, nonce: bytes) -> Rejoined:
        proof = rejoin_proof(
            Secret(entry.key),
            nonce=nonce,
            pair_id=pair_id,
            state_version=asked.state_version,
            state_digest=asked.state_digest,
        )
        assert asked.proof == proof
        assert asked.record == self.records[pair_id]
        assert asked.ticket == hashlib.sha256(asked.record).digest()
        return Rejoined(state_version=entry.version, state_digest=entry.digest)

    def _prepare(
        self, message: Prepare, entry: VtpmEntry, opened: OpenPair, pair_id: bytes
    ) -> Prepared:
        record = PairRecord(
            format=pair_record.FORMAT,
            pair_id=pair_id,
            vtpm_id=entry.vtpm_id,
            vtpm=opened.vtpm,
            guest=opened.guest,
            group=opened.group,
            launch_number=entry.launches,
            launch_log_digest=opened.launch_log_digest,
            ek_name=parse_public(message.ek).name,
            ak_name=parse_public(message.ak).name,
            reset_count=message.reset_count,
            restart_count=message.restart_count,
            hypervisor=opened.hypervisor,
            builder=opened.builder,
            manifest_digest=opened.manifest_digest,
            manifest_version=opened.manifest_version,
            host_log_digest=hashlib.sha256(b"").digest(),
            epoch=1,
            rollback_window=0,
            started_at=int(time.time()),
        ).encode()
        self.records[pair_id] = record
        return Prepared(
            record=record,
            ak_certificate=self._certificate(parse_public(message.ak).key, "AK"),
            issuer_certificate=self._certificate(self._ca.public_key(), "Test CA"),
            host_ak=self._host_ak_public(),
            ticket=hashlib.sha256(record).digest(),
        )

    def _deep_quote(self, record: bytes, vtpm_quote_digest: bytes) -> DeepQuoted:
        salt = secrets.token_bytes(32)
        leaf = leaf_hash(salt, hashlib.sha256(record).digest(), vtpm_quote_digest)
        attest = _attest(tree_paths([leaf])[0])
        signature = self.host_ak.sign(attest, ec.ECDSA(hashes.SHA256()))
        r, s = (part.to_bytes(32) for part in utils.decode_dss_signature(signature))
        return DeepQuoted(
            salt=salt,
            leaf_index=0,
            tree_size=1,
            path=(),
            attest=attest,
            signature=ECDSA_SHA256 + _sized(r) + _sized(s),
            pcrs=HOST_REGISTERS,
        )

    def _host_ak_public(self) -> bytes:
        numbers = self.host_ak.public_key().public_numbers()
        head = struct.pack(">HHIHHHHHH", 0x23, 0xB, 0x50072, 0, 0x10, 0x18, 0xB, 0x3, 0x10)
        return head + _sized(numbers.x.to_bytes(32)) + _sized(numbers.y.to_bytes(32))

    def _certificate(self, key: CertificatePublicKeyTypes, name: str) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=3650))
            .sign(self._ca, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.DER)


def _attest(qualifying: bytes) -> bytes:
    """Write a TPMS_ATTEST of a quote over the SHA-256 bank (Part 2, 10.12.12)."""
    bitmap = sum(1 << register for register in HOST_REGISTERS).to_bytes(3, "little")
    digest = hashlib.sha256(b"".join(HOST_REGISTERS.values())).digest()
    head = b"\xffTCG" + struct.pack(">H", ATTEST_QUOTE) + _sized(bytes(34)) + _sized(qualifying)
    clock = struct.pack(">QIIBQ", 1, 1, 0, 1, 0)
    return head + clock + struct.pack(">IHB", 1, 0xB, 3) + bitmap + _sized(digest)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data
