"""What builder, vTPM and command line may ask of the Manager.

Three sockets, three vocabularies.  A vTPM's socket is one end of a pair that the Manager made for
one launch: holding it is the vTPM's identity (DESIGN, section 6), so no message names a vTPM there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.wire.messages import MANAGER_LIMIT, MessageSet

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
    signers: tuple[str, ...]  # key ids that signed the library, as the builder verified them


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
class Activate:
    """Prove that AK and EK are in one TPM (TPM2_ActivateCredential); both are TPM2B contents."""

    credential_blob: bytes  # TPM2B_ID_OBJECT without its size
    encrypted_secret: bytes  # TPM2B_ENCRYPTED_SECRET without its size


@dataclass(frozen=True, kw_only=True)
class Activated:
    """The credential that only that TPM could recover."""

    credential: bytes


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
    key: bytes  # 32 bytes, AES-256; kept in memory only
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
    host_ak: bytes


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
    "builder to Manager", OpenPair, ClosePair, AskStatus, AskExport, Activate, limit=MANAGER_LIMIT
)
BUILDER_ANSWERS: Final = MessageSet(
    "Manager to builder",
    PairOpened,
    PairClosed,
    HostStatus,
    ExportPage,
    Activated,
    limit=MANAGER_LIMIT,
)
VTPM_REQUESTS: Final = MessageSet(
    "vTPM to Manager", Hello, CertifyEks, Prepare, CommitState, AskDeepQuote, limit=MANAGER_LIMIT
)
VTPM_ANSWERS: Final = MessageSet(
    "Manager to vTPM",
    Welcome,
    EkCertificates,
    Prepared,
    StateCommitted,
    DeepQuoted,
    limit=MANAGER_LIMIT,
)
