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
from tandem.evidence.certificates import MAX_COUNT
from tandem.evidence.pair_record import FORMAT, PairRecord, parse_pair_record
from tandem.evidence.signers import Signers
from tandem.evidence.tpm_types import Algorithm, Public, PublicKey, parse_public
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tandem.manager import records
from tandem.manager.host import Host
from tandem.manager.libraries import Libraries
from tandem.manager.rejoining import Expected, judge_rejoin, unaccounted
from tandem.manager.tickets import ephemeral_key, ticket
from tandem.manager.vtpms import KEY_SIZE, new_vtpm
from tandem.values import PAIR_ID_SIZE, SHA256_SIZE, Secret, checked_name
from tandem.wire.manager_rpc import (
    AkRenewed,
    CertifyEks,
    CommitState,
    EkCertificates,
    OpenPair,
    PairOpened,
    PairRejoins,
    Prepare,
    Prepared,
    Rejoin,
    Rejoined,
    RejoinPair,
    StateCommitted,
    Welcome,
)
from tandem.wire.rejoin import NONCE_SIZE

MAX_VERSION: Final = 256  # bytes of the hypervisor's or the builder's name and version
NOBODY: Final = Signers(key_ids=(), threshold=1)  # of an ephemeral vTPM: it has no next launch
Clock = Callable[[], datetime.datetime]


@dataclass(kw_only=True)
class Pair:
    """One open launch; `record` is complete once the vTPM has prepared or rejoined."""

    pair_id: bytes
    vtpm: str
    guest: str
    group: str
    ephemeral: bool
    opened: OpenPair | None  # None where a Manager before this one opened it
    state: records.VtpmRecord
    nonce: bytes = b""  # for the proof of a vTPM that is to rejoin
    greeted: bool = False
    certified: bool = False  # in this launch
    record: bytes = b""
    ak: PublicKey | None = None  # certified with it


class Pairs:
    """Every open pair; changes are staged in the store and answered after its commit."""

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._libraries = Libraries(host.store)
        self._open: dict[bytes, Pair] = {}
        self._seen: set[str] = set()  # vTPMs of which this Manager knows whether they are in use
        self._attended = False  # by the builder, since this Manager's start: all are seen

    def __len__(self) -> int:
        return len(self._open)

    def open(self, asked: OpenPair) -> tuple[Pair, PairOpened]:
        """Open the next launch of a vTPM; one that is in use, or another guest's, is refused."""
        checked_name(asked.guest, "guest")
        checked_name(asked.vtpm, "vTPM")
        checked_name(asked.group, "group")
        _refuse_odd_fields(asked)
        if self.is_open(asked.vtpm):
            raise _in_use(asked.vtpm)
        state = self._next_launch(asked)
        if state.launches > 1:
            self.require_accounted(asked.vtpm)
        self._libraries.admit(asked)
        pair_id = os.urandom(PAIR_ID_SIZE)
        if asked.ephemeral:
            state = replace(state, key=ephemeral_key(self._ticket_key, pair_id))
        pair = Pair(
            pair_id=pair_id,
            vtpm=asked.vtpm,
            guest=asked.guest,
            group=asked.group,
            ephemeral=asked.ephemeral,
            opened=asked,
            state=state,
        )
        self._enter(pair)
        self._keep(pair)
        return pair, PairOpened(pair_id=pair.pair_id, launch_number=state.launches)

    def await_rejoin(self, asked: RejoinPair) -> tuple[Pair, PairRejoins]:
        """Expect a vTPM whose launch an earlier Manager opened; it is in use from here on."""
        checked_name(asked.vtpm, "vTPM")
        if asked.pair_id in self._open:
            raise Refused(
                "TDM-PAIR-JOINED",
                f"pair {asked.pair_id.hex()[:32]} has its key channel",
                hint="nothing is to be done: the Manager was not started again",
            )
        if self.is_open(asked.vtpm):
            raise _in_use(asked.vtpm)
        known = self._persistent(asked.vtpm)
        pair = Pair(
            pair_id=asked.pair_id,
            vtpm=asked.vtpm,
            guest=asked.vtpm if known is None else known.guest,
            group="" if known is None else known.group,  # an ephemeral one's record will say
            ephemeral=known is None,
            opened=None,
            state=known or new_vtpm(guest=asked.vtpm, group="", signers=NOBODY),
            nonce=os.urandom(NONCE_SIZE),
        )
        self._enter(pair)
        return pair, PairRejoins(nonce=pair.nonce)

    def rejoin(self, pair: Pair, asked: Rejoin) -> Rejoined:
        """Go on with a vTPM that proves to be half of the pair its key channel was made for."""
        if pair.greeted or not pair.nonce:
            raise _out_of_place("to rejoin where it never left")
        known = None if pair.ephemeral else self._persistent(pair.vtpm)
        expected = Expected(pair_id=pair.pair_id, vtpm=pair.vtpm, nonce=pair.nonce, known=known)
        record = judge_rejoin(asked, expected, self._ticket_key)
        ak = parse_public(asked.ak)
        if ak.name != record.ak_name:
            raise _out_of_place("an AK that is not its pair record's")
        self._host.groups.opened(record.group)
        pair.group, pair.guest = record.group, record.guest
        pair.state = known or replace(
            pair.state,
            group=record.group,
            state_version=asked.state_version,  # nobody but this vTPM will ever read that state
            state_digest=asked.state_digest,
        )
        pair.greeted = pair.certified = True
        pair.record, pair.ak = asked.record, ak.key
        state = pair.state
        return Rejoined(state_version=state.state_version, state_digest=state.state_digest)

    def attend(self) -> None:
        """Take the builder's word that every pair that lives has asked to rejoin."""
        self._attended = True

    def close(self, pair_id: bytes) -> bool:
        """End a launch; False where it is not open."""
        return self._open.pop(pair_id, None) is not None

    def welcome(self, pair: Pair) -> Welcome:
        """Tell a vTPM who it is and hand it its key, once."""
        if pair.greeted or pair.opened is None:
            raise _out_of_place("a second Hello")
        pair.greeted = True
        return Welcome(
            pair_id=pair.pair_id,
            vtpm_id=pair.state.vtpm_id,
            vtpm=pair.vtpm,
            group=pair.group,
            launch_number=pair.state.launches,
            key=pair.state.key,
            former_state_key=pair.state.state_key,
            state_key=pair.state.launch_key,
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
        issuing, now = self._host.groups.opened(pair.group).issuing, self._clock()
        issued = {kind: issuing.ek_certificate(ek.key, now) for kind, ek in eks.items()}
        pair.state = replace(
            pair.state,
            ek_name=eks[Algorithm.RSA].name,
            ek_serials=tuple(each.serial for each in issued.values()),
        )
        pair.certified = True
        return EkCertificates(
            rsa=issued[Algorithm.RSA].der,
            ecc=issued[Algorithm.ECC].der,
            chain=issuing.endorsement + self._host.groups.record(pair.group).ca_certificate,
        )

    def prepare(self, pair: Pair, asked: Prepare) -> Prepared:
        """Complete the pair record and certify the AK with its digest."""
        opened = pair.opened
        if not pair.greeted or pair.record or opened is None:
            raise _out_of_place("a second Prepare")
        ek, ak, now = parse_public(asked.ek), parse_public(asked.ak), self._clock()
        if ek.name != pair.state.ek_name or not _is_vtpm_ak(ak):
            raise _out_of_place("an EK that was not certified, or an AK that is none")
        if max(asked.reset_count, asked.restart_count) > MAX_COUNT:
            raise _out_of_place("counts that no TPM has")
        record = PairRecord(
            format=FORMAT,
            pair_id=pair.pair_id,
            vtpm_id=pair.state.vtpm_id,
            vtpm=pair.vtpm,
            guest=pair.guest,
            group=pair.group,
            launch_number=pair.state.launches,
            launch_log_digest=opened.launch_log_digest,
            ek_name=ek.name,
            ak_name=ak.name,
            reset_count=asked.reset_count,
            restart_count=asked.restart_count,
            hypervisor=opened.hypervisor,
            builder=opened.builder,
            manifest_digest=opened.manifest_digest,
            manifest_version=opened.manifest_version,
            host_log_digest=hashlib.sha256(self._host.log).digest(),
            epoch=self._host.record.epoch,
            rollback_window=self._host.record.rollback_window,
            started_at=int(now.timestamp()),
        )
        pair.record, pair.ak = record.encode(), ak.key
        certified = self._certify_ak(pair, ak.key)
        return Prepared(
            record=pair.record,
            ak_certificate=certified.ak_certificate,
            issuer_certificate=certified.issuer_certificate,
            host_ak=self._host.ptpm.ak_public,
            ticket=ticket(self._ticket_key, pair.record, ephemeral=pair.ephemeral),
        )

    def renew_ak(self, pair: Pair) -> AkRenewed:
        """Certify the AK once more for the same launch, and stage what its revocation needs."""
        if pair.ak is None:
            raise _out_of_place("another AK certificate before the first")
        renewed = self._certify_ak(pair, pair.ak)
        self._keep(pair)
        return renewed

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
        self._host.groups.opened(pair.group)  # closed where a new key of it was not written
        pair.state = replace(
            pair.state,
            state_version=asked.version,
            state_digest=asked.digest,
            state_key=pair.state.launch_key,
        )
        self._keep(pair)
        return StateCommitted(version=asked.version)

    def group(self, pair: Pair) -> records.GroupRecord:
        """Give the record of a pair's group."""
        return self._host.groups.record(pair.group)

    def running(self, group: str) -> int:
        """Give how many pairs of a group are open."""
        return sum(pair.group == group for pair in self._open.values())

    def is_open(self, vtpm: str) -> bool:
        """Whether a vTPM is in use."""
        return any(pair.vtpm == vtpm for pair in self._open.values())

    def require_accounted(self, vtpm: str) -> None:
        """Refuse a vTPM that a pair from before this Manager's start may use: nobody said yet."""
        if not self._attended and vtpm not in self._seen:
            raise unaccounted(vtpm)

    @property
    def _ticket_key(self) -> Secret:
        return Secret(self._host.record.ticket_key)

    def _enter(self, pair: Pair) -> None:
        self._open[pair.pair_id] = pair
        self._seen.add(pair.vtpm)

    def _persistent(self, vtpm: str) -> records.VtpmRecord | None:
        """Give the record of a persistent vTPM; None where there is none of this name."""
        if self._host.vtpms.group_of(vtpm) is None:
            return None
        return self._host.vtpms.get(vtpm)[1]

    def _next_launch(self, asked: OpenPair) -> records.VtpmRecord:
        """Give the record that the vTPM has in its next launch, as far as its group allows one."""
        self._host.groups.opened(asked.group)
        group = self._host.groups.record(asked.group)
        _require_library(asked, group)
        if self.running(asked.group) >= group.running_most:
            raise _limited(asked.group, f"{group.running_most} running pairs")
        owner = self._host.vtpms.group_of(asked.vtpm)
        is_new = owner is None and not asked.ephemeral
        if is_new and self._host.vtpms.count(asked.group) >= group.vtpms_most:
            raise _limited(asked.group, f"{group.vtpms_most} vTPMs")
        if owner is None:
            signers = Signers(key_ids=asked.successors, threshold=asked.threshold)
            fresh = new_vtpm(guest=asked.guest, group=asked.group, signers=signers)
            return replace(fresh, launches=1)
        if asked.ephemeral:
            raise Refused(
                "TDM-VTPM-PERSISTENT",
                f"vTPM {asked.vtpm} is persistent and cannot be started as an ephemeral one",
                hint="give the ephemeral guest another name",
            )
        return self._known(asked, owner)

    def _known(self, asked: OpenPair, owner: str) -> records.VtpmRecord:
        if owner != asked.group:
            raise _of_another(asked.vtpm, f"group {owner}")
        _, known = self._host.vtpms.get(asked.vtpm)
        if known.guest != asked.guest:
            raise _of_another(asked.vtpm, f"guest {known.guest} in group {owner}")
        signers = Signers(key_ids=known.signers, threshold=known.threshold)
        if not signers.are_met_by(asked.signers):
            raise Refused(
                "TDM-VTPM-OTHER-LIBRARY",
                f"vTPM {asked.vtpm} was last launched from a library that other keys signed; what "
                f"comes after it takes {signers}",
                hint="sign the library with keys that the last one names, too, or start the "
                "guest under another name",
            )
        return replace(
            known,
            launches=known.launches + 1,
            launch_key=os.urandom(KEY_SIZE),
            signers=asked.successors,
            threshold=asked.threshold,
        )

    def _certify_ak(self, pair: Pair, key: PublicKey) -> AkRenewed:
        """Issue an AK certificate; the record that the next commit writes has its serial number."""
        issuing, now = self._host.groups.opened(pair.group).issuing, self._clock()
        issued = issuing.ak_certificate(key, parse_pair_record(pair.record), now)
        known = [
            (end, serial) for serial, end in pair.state.ak_serials.items() if end > now.timestamp()
        ]
        newest = {serial: end for end, serial in sorted(known)[1 - records.AK_SERIALS_MOST :]}
        newest[issued.serial] = int(issued.end.timestamp())
        pair.state = replace(pair.state, ak_serials=newest)
        return AkRenewed(ak_certificate=issued.der, issuer_certificate=issuing.attestation)

    def _keep(self, pair: Pair) -> None:
        if not pair.ephemeral:
            self._host.vtpms.keep(pair.vtpm, pair.state)


def _require_library(asked: OpenPair, group: records.GroupRecord) -> None:
    if group.signers and not set(group.signers) & set(asked.signers):
        raise Refused(
            "TDM-GROUP-OTHER-LIBRARY",
            f"group {asked.group} does not start guests from a library that these keys signed",
            hint="sign the library with a key that the group's administrator allowed: see "
            f"`tandem group show {asked.group}`",
        )


def _limited(group: str, limit: str) -> Refused:
    return Refused(
        "TDM-GROUP-LIMIT",
        f"group {group} has reached its limit of {limit}",
        hint="stop or destroy some of the group's, or have the host's administrator raise it with "
        f"`tandem group limits {group}`",
    )


def _in_use(vtpm: str) -> Refused:
    return Refused(
        "TDM-VTPM-IN-USE",
        f"vTPM {vtpm} is in use by a running pair",
        hint="stop that guest first: one vTPM serves one guest at a time",
    )


def _of_another(vtpm: str, owner: str) -> Refused:
    return Refused(
        "TDM-VTPM-OF-ANOTHER",
        f"vTPM {vtpm} belongs to {owner}",
        hint="start the guest that it was made for",
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
