"""What builder, vTPM and command line may ask of the Manager.

Three sockets, three vocabularies.  A vTPM's socket is one end of a pair that the Manager made for
one launch: holding it is the vTPM's identity (DESIGN, section 6), so no message names a vTPM there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.wire.group_rpc import GROUP_ANSWERS, GROUP_REQUESTS
from tandem.wire.messages import MANAGER_LIMIT, MessageSet

CHANNEL_LIMIT: Final = 4096 + 256  # the broker's: a TPM's longest message, and marks on a context

# Builder to Manager, over the Manager's listening socket.


@dataclass(frozen=True, kw_only=True)
class OpenPair:
    """Open the next launch of `vtpm` with `guest`; the answer carries the vTPM's socket."""

    guest: str
    vtpm: str
    group: str
    ephemeral: bool
    launch_log_digest: bytes
    hypervisor: str
    builder: str
    manifest_digest: bytes
    manifest_version: int
    library: str  # its name
    signers: tuple[str, ...]  # key ids that signed the library, as the builder verified them
    successors: tuple[str, ...]  # key ids of which the library says that `threshold` of them
    threshold: int  # sign what comes after it


@dataclass(frozen=True, kw_only=True)
class PairOpened:
    """The launch is open; with it travels the vTPM's end of its key channel."""

    pair_id: bytes
    launch_number: int


@dataclass(frozen=True, kw_only=True)
class ClosePair:
    """End a launch that the builder gives up or saw end."""

    pair_id: bytes


@dataclass(frozen=True, kw_only=True)
class PairClosed:
    """The launch is closed: its key channel answers nothing more."""


@dataclass(frozen=True, kw_only=True)
class RejoinPair:
    """Give a pair that lives a new key channel: the Manager that it was opened at has ended."""

    pair_id: bytes
    vtpm: str


@dataclass(frozen=True, kw_only=True)
class PairRejoins:
    """The vTPM may prove who it is, over the key channel whose end travels along."""

    nonce: bytes  # for `rejoin.rejoin_proof`


@dataclass(frozen=True, kw_only=True)
class Attend:
    """Each pair of this host that lives has asked to rejoin: no other one is in use."""


@dataclass(frozen=True, kw_only=True)
class Attended:
    """New launches are opened; this connection's end is the Manager's."""


# Command line to Manager, over the same socket.


@dataclass(frozen=True, kw_only=True)
class AskStatus:
    """Ask what the host is and does."""


@dataclass(frozen=True, kw_only=True)
class HostStatus:
    """The state of the Manager and its pTPM."""

    ptpm: str  # a device path, or "embedded"
    hardware_root: bool
    host_ak_name: bytes
    store_commits: int
    deep_quotes: int
    ptpm_quotes: int
    open_pairs: int
    store_version: int  # commits since the store was made
    rollback_window: int  # seconds of commits that an older store may undo; 0: none (strict)
    nv_writes: int  # of the pTPM's NV memory, by the store's anchor, since `host init`
    nv_budget: int  # writes that it may take in its life
    nv_writes_a_day: int  # on average
    nv_days_left: int  # at that rate
    nv_over_pace: bool  # the budget will not last for the pTPM's life


@dataclass(frozen=True, kw_only=True)
class AskMetrics:
    """Ask for the Manager's metrics (JSON) from `offset` on; at 0 they are counted anew."""

    offset: int


@dataclass(frozen=True, kw_only=True)
class MetricsPage:
    """A part of the Manager's metrics."""

    total: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class ChangeRollback:
    """Have the store's changes anchored within so many seconds; 0: at once (strict)."""

    window: int


@dataclass(frozen=True, kw_only=True)
class RollbackChanged:
    """The choice is kept, and holds from the Manager's next start on."""

    window: int


@dataclass(frozen=True, kw_only=True)
class AskExport:
    """Ask for the host's export (JSON) from `offset` on."""

    offset: int


@dataclass(frozen=True, kw_only=True)
class ExportPage:
    """A part of the host's export."""

    total: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class AskHostLog:
    """Ask for one of the host's logs from `offset` on: "events" (the firmware's) or "ima"."""

    log: str
    offset: int


@dataclass(frozen=True, kw_only=True)
class HostLogPage:
    """A part of a log that may grow: it has `total` bytes now, and `digest` is their SHA-256."""

    total: int
    digest: bytes
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Activate:
    """Prove that AK and EK are in one TPM (TPM2_ActivateCredential); both are TPM2B contents."""

    credential_blob: bytes  # TPM2B_ID_OBJECT without its size
    encrypted_secret: bytes  # TPM2B_ENCRYPTED_SECRET without its size


@dataclass(frozen=True, kw_only=True)
class Activated:
    """The credential that only that TPM could recover, and a quote for it by the same AK.

    The quote is qualified with `enrolment.enrolment_data` of credential and export.
    """

    credential: bytes
    attest: bytes
    signature: bytes
    pcrs: dict[int, bytes]


@dataclass(frozen=True, kw_only=True)
class AskHostState:
    """Ask what state the host is in, for whoever is to approve one."""


@dataclass(frozen=True, kw_only=True)
class HostStateRead:
    """The registers that the host is sealed to, and the generation that an approval is for."""

    generation: int
    banks: dict[str, dict[int, bytes]]


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Make the next generation of the master key, for which the host's present state is signed."""

    banks: dict[str, dict[int, bytes]]
    signature: bytes  # of the approval (`evidence.host_approval`), DER


@dataclass(frozen=True, kw_only=True)
class Rotated:
    """The host is under a new master key."""

    generation: int
    recovery_key: bytes  # shown once, kept nowhere


@dataclass(frozen=True, kw_only=True)
class AskBackupKey:
    """Ask for the key of the backup with this salt (32 bytes)."""

    salt: bytes


@dataclass(frozen=True, kw_only=True)
class BackupKey:
    """A key (32 bytes) that whoever has the recovery key derives, too."""

    key: bytes


# Broker to Manager, over the same socket.


@dataclass(frozen=True, kw_only=True)
class OpenBroker:
    """Ask for the channel of filtered TPM commands; there is one, as there is one broker."""


@dataclass(frozen=True, kw_only=True)
class BrokerOpened:
    """The channel travels with it: SOCK_SEQPACKET, one raw command or response in each packet."""


# vTPM to Manager, over its key channel.


@dataclass(frozen=True, kw_only=True)
class Hello:
    """First message of a vTPM."""


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """Who the vTPM is in this launch, its key, and the newest state that it may open."""

    pair_id: bytes
    vtpm_id: bytes
    vtpm: str
    group: str
    launch_number: int
    key: bytes  # 32 bytes, as the next two kept in memory only; the same in each launch
    former_state_key: bytes  # AES-256, of the newest state; empty where there is none
    state_key: bytes  # AES-256, of the states that this launch writes
    state_version: int  # 0: none yet, the vTPM is to be manufactured
    state_digest: bytes  # SHA-256 of the state slot's bytes; empty where there is none


@dataclass(frozen=True, kw_only=True)
class CertifyEks:
    """Ask for EK certificates of a vTPM just manufactured; both are TPMT_PUBLIC."""

    rsa: bytes
    ecc: bytes


@dataclass(frozen=True, kw_only=True)
class EkCertificates:
    """X.509 certificates, DER, for the NV indices of the TCG EK credential profile."""

    rsa: bytes
    ecc: bytes
    chain: bytes  # of both: the issuing key's certificate, then the group CA's


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Complete the pair record; `ek` (RSA) and `ak` are TPMT_PUBLIC, counts the expected ones."""

    ek: bytes
    ak: bytes
    reset_count: int
    restart_count: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The pair record, and what stays the same in every deep quote of this launch."""

    record: bytes
    ak_certificate: bytes
    issuer_certificate: bytes
    host_ak: bytes
    ticket: bytes  # for `Rejoin`; a secret of this vTPM


@dataclass(frozen=True, kw_only=True)
class Rejoin:
    """First message on a key channel made anew: who the vTPM is, proven, and where it stands."""

    record: bytes
    ak: bytes  # TPMT_PUBLIC, of which the record has the Name
    ticket: bytes
    state_version: int  # the newest that was acknowledged, with its digest
    state_digest: bytes
    proof: bytes  # `rejoin.rejoin_proof` over both


@dataclass(frozen=True, kw_only=True)
class Rejoined:
    """The pair goes on; the state that the Manager recorded last tells of an unanswered commit."""

    state_version: int
    state_digest: bytes


@dataclass(frozen=True, kw_only=True)
class RenewAk:
    """Ask for another AK certificate in this launch: less than half of its life is left."""


@dataclass(frozen=True, kw_only=True)
class AkRenewed:
    """The AK's new certificate, and that of the issuing key."""

    ak_certificate: bytes
    issuer_certificate: bytes


@dataclass(frozen=True, kw_only=True)
class CommitState:
    """Make `version` with `digest` the newest state of this vTPM; the slot is on disk already."""

    version: int
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class StateCommitted:
    """The commit would survive power loss."""

    version: int


@dataclass(frozen=True, kw_only=True)
class AskDeepQuote:
    """Ask for a pTPM quote over this pair's record and a vTPM quote (`deep_quote.quote_digest`)."""

    vtpm_quote_digest: bytes


@dataclass(frozen=True, kw_only=True)
class DeepQuoted:
    """The Manager's half of a deep quote."""

    salt: bytes
    leaf_index: int
    tree_size: int
    path: tuple[bytes, ...]
    attest: bytes
    signature: bytes
    pcrs: dict[int, bytes]


BUILDER_REQUESTS: Final = MessageSet(
    "builder to Manager",
    OpenPair,
    ClosePair,
    RejoinPair,
    Attend,
    AskStatus,
    AskMetrics,
    AskExport,
    AskHostLog,
    Activate,
    ChangeRollback,
    *GROUP_REQUESTS,
    AskHostState,
    Rotate,
    AskBackupKey,
    OpenBroker,
    limit=MANAGER_LIMIT,
)
BUILDER_ANSWERS: Final = MessageSet(
    "Manager to builder",
    PairOpened,
    PairClosed,
    PairRejoins,
    Attended,
    HostStatus,
    RollbackChanged,
    MetricsPage,
    ExportPage,
    HostLogPage,
    Activated,
    *GROUP_ANSWERS,
    HostStateRead,
    Rotated,
    BackupKey,
    BrokerOpened,
    limit=MANAGER_LIMIT,
)
VTPM_REQUESTS: Final = MessageSet(
    "vTPM to Manager",
    Hello,
    CertifyEks,
    Prepare,
    Rejoin,
    RenewAk,
    CommitState,
    AskDeepQuote,
    limit=MANAGER_LIMIT,
)
VTPM_ANSWERS: Final = MessageSet(
    "Manager to vTPM",
    Welcome,
    EkCertificates,
    Prepared,
    Rejoined,
    AkRenewed,
    StateCommitted,
    DeepQuoted,
    limit=MANAGER_LIMIT,
)
