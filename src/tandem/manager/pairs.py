"""The pairs that are open, and what each message of a vTPM or the builder means for them."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.pair_record import FORMAT, PairRecord, record_digest
from tandem.evidence.tpm_types import Algorithm, Public, parse_public
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tandem.manager import records
from tandem.manager.host import Host
from tandem.values import PAIR_ID_SIZE, SHA256_SIZE, checked_name
from tandem.wire.manager_rpc import (
    CertifyEks,
    CommitState,
    EkCertificates,
    OpenPair,
    PairOpened,
    Prepare,
    Prepared,
    StateCommitted,
    Welcome,
)

KEY_SIZE: Final = 32
MAX_VERSION: Final = 256  # bytes of the hypervisor's or the builder's name and version
Clock = Callable[[], datetime.datetime]


@dataclass(kw_only=True)
class Pair:
    """One open launch; `record` is complete once the vTPM has prepared."""

    pair_id: bytes
    vtpm: str
    guest: str
    group: str
    ephemeral: bool
    opened: OpenPair
    state: records.VtpmRecord
    greeted: bool = False
    certified: bool = False  # in this launch: each certificate costs the pTPM a signature
    record: bytes = b""


class Pairs:
    """Every open pair; changes are staged in the store and answered after its commit."""

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._open: dict[bytes, Pair] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, asked: OpenPair) -> tuple[Pair, PairOpened]:
        """Open the next launch of a vTPM; one that is in use, or another guest's, is refused."""
        checked_name(asked.guest, "guest")
        checked_name(asked.vtpm, "vTPM")
        checked_name(asked.group, "group")
        _refuse_odd_fields(asked)
        if any(pair.vtpm == asked.vtpm for pair in self._open.values()):
            raise Refused(
                "TDM-VTPM-IN-USE",
                f"vTPM {asked.vtpm} is in use by a running pair",
                hint="stop that guest first: one vTPM serves one guest at a time",
            )
        state = self._next_launch(asked)
        pair = Pair(
            pair_id=os.urandom(PAIR_ID_SIZE),
            vtpm=asked.vtpm,
            guest=asked.guest,
            group=asked.group,
            ephemeral=asked.ephemeral,
            opened=asked,
            state=state,
        )
        self._open[pair.pair_id] = pair
        self._keep(pair)
        return pair, PairOpened(pair_id=pair.pair_id, launch_number=state.launches)

    def close(self, pair_id: bytes) -> bool:
        """End a launch; False where it is not open."""
        return self._open.pop(pair_id, None) is not None

    def welcome(self, pair: Pair) -> Welcome:
        """Tell a vTPM who it is and hand it its key, once."""
        if pair.greeted:
            raise _out_of_place("a second Hello")
        pair.greeted = True
        return Welcome(
            pair_id=pair.pair_id,
            vtpm_id=pair.state.vtpm_id,
            vtpm=pair.vtpm,
            group=pair.group,
            launch_number=pair.state.launches,
            key=pair.state.key,
            state_version=pair.state.state_version,
            state_digest=pair.state.state_digest,
        )

    def certify(self, pair: Pair, asked: CertifyEks) -> EkCertificates:
        """Issue EK certificates for a vTPM that has just been manufactured."""
        if not pair.greeted or pair.certified or pair.state.state_version:
            raise _out_of_place("EKs of a vTPM that has its certificates already")
        eks = {Algorithm.RSA: parse_public(asked.rsa), Algorithm.ECC: parse_public(asked.ecc)}
        if not all(ek.is_ek and ek.type is kind for kind, ek in eks.items()):
            raise _out_of_place("certificates of keys that are no EKs")
        issue, now = self._host.authority.ek_certificate, self._clock()
        certificates = {kind: issue(ek.key, now) for kind, ek in eks.items()}
        pair.state = replace(pair.state, ek_name=eks[Algorithm.RSA].name)
        pair.certified = True
        return EkCertificates(rsa=certificates[Algorithm.RSA], ecc=certificates[Algorithm.ECC])

    def prepare(self, pair: Pair, asked: Prepare) -> Prepared:
        """Complete the pair record and certify the AK with its digest."""
        if not pair.greeted or pair.record:
            raise _out_of_place("a second Prepare")
        ek, ak, now = parse_public(asked.ek), parse_public(asked.ak), self._clock()
        if ek.name != pair.state.ek_name or not _is_vtpm_ak(ak):
            raise _out_of_place("an EK that was not certified, or an AK that is none")
        record = PairRecord(
            format=FORMAT,
            pair_id=pair.pair_id,
            vtpm_id=pair.state.vtpm_id,
            vtpm=pair.vtpm,
            guest=pair.guest,
            group=pair.group,
            launch_number=pair.state.launches,
            launch_log_digest=pair.opened.launch_log_digest,
            ek_name=ek.name,
            ak_name=ak.name,
            reset_count=asked.reset_count,
            restart_count=asked.restart_count,
            hypervisor=pair.opened.hypervisor,
            builder=pair.opened.builder,
            manifest_digest=pair.opened.manifest_digest,
            manifest_version=pair.opened.manifest_version,
            host_log_digest=hashlib.sha256(self._host.log).digest(),
            started_at=int(now.timestamp()),
        ).encode()
        certificate = self._host.authority.ak_certificate(
            ak.key, record_digest(record), vtpm=pair.vtpm, guest=pair.guest, now=now
        )
        pair.record = record
        return Prepared(
            record=record,
            ak_certificate=certificate,
            host_ak=self._host.ptpm.ak_public,
        )

    def commit_state(self, pair: Pair, asked: CommitState) -> StateCommitted:
        """Stage a vTPM's newest state; versions rise by one, so none is lost or doubled."""
        if not pair.greeted:
            raise _out_of_place("a state before Hello")
        due = pair.state.state_version + 1
        if asked.version != due or len(asked.digest) != SHA256_SIZE:
            raise UntrustedInput(
                "TDM-STATE-VERSION",
                f"a vTPM commits version {asked.version} of its state where {due} is due",
                hint="the vTPM is broken or hostile: its pair is ended",
                offset=0,
            )
        pair.state = replace(pair.state, state_version=asked.version, state_digest=asked.digest)
        self._keep(pair)
        return StateCommitted(version=asked.version)

    def _next_launch(self, asked: OpenPair) -> records.VtpmRecord:
        content = self._host.store.get(records.vtpm_id(asked.vtpm))
        if self._host.store.get(records.group_id(asked.group)) is None:
            raise Refused(
                "TDM-GROUP-UNKNOWN",
                f"there is no group {asked.group} on this host",
                hint=f"use the group {records.DEFAULT_GROUP}",
            )
        if content is None or asked.ephemeral:
            if content is not None:
                raise Refused(
                    "TDM-VTPM-PERSISTENT",
                    f"vTPM {asked.vtpm} is persistent and cannot be started as an ephemeral one",
                    hint="give the ephemeral guest another name",
                )
            return _new_vtpm(asked)
        known = records.decode(records.VtpmRecord, content)
        if (known.guest, known.group) != (asked.guest, asked.group):
            raise Refused(
                "TDM-VTPM-OF-ANOTHER",
                f"vTPM {asked.vtpm} belongs to guest {known.guest} in group {known.group}",
                hint="start the guest that it was made for",
            )
        if not set(known.signers) & set(asked.signers):
            raise Refused(
                "TDM-VTPM-OTHER-LIBRARY",
                f"vTPM {asked.vtpm} was last launched from a library that other keys signed",
                hint="sign the library with a key that signed the last one, too, or start the "
                "guest under another name",
            )
        return replace(known, launches=known.launches + 1, signers=asked.signers)

    def _keep(self, pair: Pair) -> None:
        if not pair.ephemeral:
            self._host.store.stage(records.vtpm_id(pair.vtpm), records.encode(pair.state))


def _new_vtpm(asked: OpenPair) -> records.VtpmRecord:
    return records.VtpmRecord(
        vtpm_id=os.urandom(PAIR_ID_SIZE),
        guest=asked.guest,
        group=asked.group,
        key=os.urandom(KEY_SIZE),
        ek_name=b"",
        signers=asked.signers,
        launches=1,
        state_version=0,
        state_digest=b"",
    )


def _is_vtpm_ak(ak: Public) -> bool:
    """Whether this is the very public area that a verifier rebuilds from the certificate."""
    key = ak.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    return vtpm_ak_public(key) == ak.encoded


def _refuse_odd_fields(asked: OpenPair) -> None:
    """Refuse what would make a pair record that no verifier reads."""
    digests = {len(asked.launch_log_digest), len(asked.manifest_digest)}
    longest = max(len(asked.hypervisor.encode()), len(asked.builder.encode()))
    if digests != {SHA256_SIZE} or longest > MAX_VERSION:
        raise UntrustedInput(
            "TDM-PAIR-FIELD-BAD",
            f"the digests of launch log and manifest are not of SHA-256, or a version is longer "
            f"than {MAX_VERSION} bytes",
            hint="both sides must be of one version: restart the host's services",
            offset=0,
        )


def _out_of_place(what: str) -> UntrustedInput:
    return UntrustedInput(
        "TDM-VTPM-OUT-OF-PLACE",
        f"a vTPM asks out of place: {what}",
        hint="the vTPM is broken or hostile: its pair is ended",
        offset=0,
    )
