"""Whether a vTPM that claims to be half of a pair may go on with a Manager that was started again.

Pure: what it shows is judged against what the store knows, and nothing is changed here.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.pair_record import PairRecord, parse_pair_record
from tandem.manager.records import VtpmRecord
from tandem.manager.tickets import ephemeral_key, ticket
from tandem.values import SHA256_SIZE, Secret
from tandem.wire.manager_rpc import Rejoin
from tandem.wire.rejoin import rejoin_proof


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Whom the key channel was made for; `known` is None for an ephemeral vTPM."""

    pair_id: bytes
    vtpm: str
    nonce: bytes
    known: VtpmRecord | None


def judge_rejoin(asked: Rejoin, expected: Expected, ticket_key: Secret) -> PairRecord:
    """Give the pair record that a vTPM has proven to be its own, or refuse it.

    The ticket shows that a Manager of this host wrote the record, for this kind of vTPM; that the
    record is of the pair, and of its vTPM's newest launch, that nobody else's does; the proof, that
    whoever asks holds the vTPM's key, here and now.
    """
    known, pair_id = expected.known, expected.pair_id
    due = ticket(ticket_key, asked.record, ephemeral=known is None)
    if not hmac.compare_digest(due, asked.ticket):
        raise _refuse("its pair record is none that a Manager of this host wrote")
    record = parse_pair_record(asked.record)
    if (record.pair_id, record.vtpm) != (pair_id, expected.vtpm):
        raise _refuse("its pair record is another pair's")
    if known is not None and (record.vtpm_id, record.launch_number) != (
        known.vtpm_id,
        known.launches,
    ):
        raise _refuse("its vTPM was launched again, or made anew, since")
    if not 0 < asked.state_version < 1 << 63 or len(asked.state_digest) != SHA256_SIZE:
        raise _refuse("its state is none that a Manager acknowledged")
    key = known.key if known is not None else ephemeral_key(ticket_key, pair_id)
    proof = rejoin_proof(
        Secret(key),
        nonce=expected.nonce,
        pair_id=pair_id,
        state_version=asked.state_version,
        state_digest=asked.state_digest,
    )
    if not hmac.compare_digest(proof, asked.proof):
        raise _refuse("it does not hold its vTPM's key")
    return record


def unaccounted(vtpm: str) -> Refused:
    """Say that a vTPM may be in use by a pair that was opened before this Manager's start."""
    return Refused(
        "TDM-VTPM-IN-USE",
        f"vTPM {vtpm} may be in use by a pair that lives since before the Manager's start",
        hint="start the builder, which says what lives: one vTPM serves one guest at a time",
    )


def _refuse(problem: str) -> UntrustedInput:
    return UntrustedInput(
        "TDM-REJOIN-REFUSED",
        f"a vTPM may not rejoin: {problem}",
        hint="the vTPM is broken or hostile: its pair is ended",
        offset=0,
    )
