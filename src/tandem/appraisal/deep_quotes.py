"""The deep quote itself: request, vTPM quote, pair record, path and pTPM quote belong together."""

from __future__ import annotations

import hmac

from tandem.appraisal.policy import PolicyText
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import UntrustedInput
from tandem.evidence.attest import Quote
from tandem.evidence.deep_quote import DeepQuote, leaf_hash, quote_digest
from tandem.evidence.merkle import root_of_path
from tandem.evidence.pair_record import PairRecord, parse_pair_record, record_digest


def appraise_request(answer: DeepQuote, policy: PolicyText, nonce: bytes) -> tuple[Finding, ...]:
    """Judge that the answer is to this verifier's request, and for the channel it expects."""
    fresh = Rule.NONCE_FRESH.judged(
        hmac.compare_digest(answer.nonce, nonce),
        f"answers this request: nonce {nonce.hex()}",
        f"a replay, or an answer to somebody else: its nonce is {answer.nonce.hex()}, "
        f"asked was {nonce.hex()}",
    )
    return (fresh, _user_data(answer.user_data, policy.user_data))


def appraise_record(
    encoded: bytes, policy: PolicyText
) -> tuple[PairRecord | None, tuple[Finding, ...]]:
    """Read the pair record and judge whose pair it is."""
    try:
        record = parse_pair_record(encoded)
    except UntrustedInput as error:
        return None, (Rule.RECORD_READABLE.unreadable(error),)
    readable = Rule.RECORD_READABLE.holds(
        f"pair {record.pair_id.hex()}, launch {record.launch_number} of vTPM {record.vtpm[:64]!a}"
    )
    guest = _expected(Rule.GUEST_EXPECTED, "guest", record.guest, policy.guest)
    group = _expected(Rule.GROUP_EXPECTED, "group", record.group, policy.group)
    return record, (readable, guest, group, _vtpm(record, policy))


def appraise_tree(answer: DeepQuote, ptpm_quote: Quote | None) -> tuple[Finding, ...]:
    """Judge that the tree which the pTPM quoted holds this record with this vTPM quote."""
    leaf = leaf_hash(
        answer.salt,
        record_digest(answer.record),
        quote_digest(answer.vtpm_attest, answer.vtpm_signature),
    )
    root = root_of_path(leaf, answer.leaf_index, answer.tree_size, answer.path)
    where = f"leaf {answer.leaf_index} of {answer.tree_size}"
    if root is None:
        return (Rule.PATH_FITS.broken(f"a path of {len(answer.path)} hashes does not fit {where}"),)
    fits = Rule.PATH_FITS.holds(f"{where}, {len(answer.path)} hashes up to the root")
    if ptpm_quote is None:
        return (fits,)
    quoted = Rule.LEAF_QUOTED.judged(
        hmac.compare_digest(root, ptpm_quote.qualifying_data),
        f"the pTPM quoted the root over this pair record and this vTPM quote, {root.hex()}",
        f"record, vTPM quote and path lead to {root.hex()}; the pTPM quoted "
        f"{ptpm_quote.qualifying_data.hex()}: they do not belong together",
    )
    return (fits, quoted)


def _user_data(found: bytes, expected: bytes | None) -> Finding:
    rule = Rule.USER_DATA
    if expected is None:
        return rule.holds(f"the policy expects none in particular; it is {found.hex() or 'empty'}")
    return rule.judged(
        hmac.compare_digest(found, expected),
        f"made for the expected user data {expected.hex() or '(empty)'}",
        f"made for user data {found.hex() or '(empty)'}, not {expected.hex() or '(empty)'}",
    )


def _vtpm(record: PairRecord, policy: PolicyText) -> Finding:
    rule, name = Rule.VTPM_EXPECTED, record.ek_name.hex()
    if policy.ek_name is not None and policy.ek_name != record.ek_name:
        return rule.broken(f"a vTPM with EK {name}; the policy expects {policy.ek_name.hex()}")
    if policy.vtpm is not None:
        return _expected(rule, "vTPM", record.vtpm, policy.vtpm)
    if policy.ek_name is not None:
        return rule.holds(f"a vTPM with EK {name}, as the policy expects")
    return rule.holds(
        f"the policy expects none in particular; it is {record.vtpm[:64]!a} with EK {name}"
    )


def _expected(rule: Rule, what: str, found: str, expected: str) -> Finding:
    return rule.judged(
        found == expected,
        f"{what} {expected}, as the policy expects",
        f"{what} {found[:64]!a}; the policy expects {expected!a}",
    )
