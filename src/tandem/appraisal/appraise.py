"""Appraisal of one deep quote: evidence, policy, nonce and time in, verdict out.

Each claim of a deep quote gets one finding, in the order of the chain; evidence that cannot be
read, or does not hold together, is a finding too and never an exception.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from tandem.appraisal.anchor import Anchor
from tandem.appraisal.chain import appraise_ak_certificate, appraise_anchor, appraise_host_ak
from tandem.appraisal.deep_quotes import appraise_record, appraise_request, appraise_tree
from tandem.appraisal.launch import (
    appraise_events,
    appraise_manifest,
    appraise_recorded_manifest,
    read_launch,
)
from tandem.appraisal.pcrs import appraise_host, appraise_launch_registers, appraise_quoted
from tandem.appraisal.policy import Policy
from tandem.appraisal.quotes import (
    appraise_counts,
    appraise_form,
    appraise_hierarchy,
    appraise_qualifying_data,
    appraise_signature,
)
from tandem.appraisal.rules import Rule, unchecked
from tandem.appraisal.verdict import Finding, Verdict
from tandem.errors import UntrustedInput
from tandem.evidence.attest import Quote
from tandem.evidence.bundle import Evidence, parse_evidence
from tandem.evidence.deep_quote import DeepQuote, qualifying_data
from tandem.evidence.pair_record import PairRecord, record_digest
from tandem.values import LAUNCH_REGISTERS

UNKNOWN: Final = "unknown guest"
SHOWN_FACTS: Final = 8
SHOWN_FACT: Final = 120  # characters
ROOT_ON_HOST: Final = (
    "Root on the host is in the trusted base of a Linux host: it can be detected only as far as "
    "the measured host (measured boot, IMA, lockdown) shows it."
)
OUT_OF_SCOPE: Final = (
    "Out of scope: physical attacks on the TPM bus, malicious CPU or firmware vendors, hypervisor "
    "escapes."
)


def appraise(evidence: bytes, policy: Policy, nonce: bytes, at: datetime) -> Verdict:
    """Judge evidence by a policy; `nonce` is what was asked with, `at` an aware time."""
    appraisal = _Appraisal(policy=policy, nonce=nonce, at=at)
    try:
        bundle = parse_evidence(evidence)
    except UntrustedInput as error:
        appraisal.findings.append(Rule.EVIDENCE_READABLE.unreadable(error))
    else:
        appraisal.findings.append(Rule.EVIDENCE_READABLE.holds(f"{len(evidence)} bytes"))
        appraisal.run(bundle)
    findings = tuple(appraisal.findings)
    return Verdict(
        attester=appraisal.attester,
        findings=findings + unchecked(findings),
        notes=(*appraisal.notes, ROOT_ON_HOST, OUT_OF_SCOPE),
    )


@dataclass(kw_only=True)
class _Appraisal:
    """One appraisal under way: what was found so far."""

    policy: Policy
    nonce: bytes
    at: datetime
    attester: str = UNKNOWN
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, bundle: Evidence) -> None:
        """Go down the chain: host, deep quote, pair, vTPM, guest."""
        answer = bundle.answer
        anchor = self._host(answer)
        record = self._deep_quote(answer)
        self._vtpm(answer, record, anchor)
        self._launch(answer, record)
        self._note_what_is_not_judged(bundle)

    def _host(self, answer: DeepQuote) -> Anchor | None:
        anchor, findings = appraise_anchor(self.policy)
        self.findings += [*findings, appraise_host_ak(answer.host_ak, anchor)]
        return anchor

    def _deep_quote(self, answer: DeepQuote) -> PairRecord | None:
        policy, attest = self.policy.text, answer.ptpm_attest
        quote, form = appraise_form(Rule.PTPM_QUOTE_MADE, attest)
        self.findings.append(form)
        self.findings.append(
            appraise_signature(
                Rule.PTPM_QUOTE_SIGNED, answer.host_ak, attest, answer.ptpm_signature
            )
        )
        if quote is not None:
            self.findings.append(appraise_quoted(Rule.HOST_PCRS_QUOTED, quote, answer.ptpm_pcrs))
        self.findings.append(appraise_host(answer.ptpm_pcrs, policy.host_pcrs))
        self.findings += appraise_tree(answer, quote)
        self.findings += appraise_request(answer, policy, self.nonce)
        record, findings = appraise_record(answer.record, policy)
        self.findings += findings
        if record is not None:
            self.attester = ascii(record.guest[:64]).strip("'")
        return record

    def _vtpm(self, answer: DeepQuote, record: PairRecord | None, anchor: Anchor | None) -> None:
        ak = None
        if anchor is not None:
            ak, findings = appraise_ak_certificate(
                answer.ak_certificate, record, answer.record, anchor, self.at
            )
            self.findings += findings
        quote, form = appraise_form(Rule.VTPM_QUOTE_MADE, answer.vtpm_attest)
        self.findings.append(form)
        if ak is not None:
            self.findings.append(
                appraise_signature(
                    Rule.VTPM_QUOTE_SIGNED, ak, answer.vtpm_attest, answer.vtpm_signature
                )
            )
        if ak is not None and quote is not None:
            self.findings.append(appraise_hierarchy(quote, ak))
        if quote is not None:
            self._vtpm_quote(answer, record, quote)
        self.findings.append(appraise_launch_registers(answer.vtpm_pcrs))

    def _vtpm_quote(self, answer: DeepQuote, record: PairRecord | None, quote: Quote) -> None:
        expected = qualifying_data(answer.nonce, answer.user_data, record_digest(answer.record))
        self.findings.append(appraise_qualifying_data(quote, expected))
        if record is not None:
            self.findings.append(appraise_counts(quote, record))
        self.findings.append(appraise_quoted(Rule.VTPM_PCRS_QUOTED, quote, answer.vtpm_pcrs))

    def _launch(self, answer: DeepQuote, record: PairRecord | None) -> None:
        manifest, findings = appraise_manifest(self.policy)
        self.findings += findings
        events, replayed = read_launch(answer.launch_log, answer.vtpm_pcrs)
        if record is not None:
            self.findings.append(_recorded_log(answer.launch_log, record))
        self.findings.append(replayed)
        if manifest is not None and record is not None:
            self.findings.append(appraise_recorded_manifest(manifest, record))
            if events is not None:
                self.findings += appraise_events(events, manifest, self.policy.text, record)

    def _note_what_is_not_judged(self, bundle: Evidence) -> None:
        others = sorted(bundle.answer.vtpm_pcrs.keys() - set(LAUNCH_REGISTERS))
        if others:
            listed = ", ".join(map(str, others))
            self.notes.append(f"Quoted and not judged: vTPM PCR {listed}.")
        if bundle.firmware_log is not None:
            self.notes.append("Carried and not judged: the guest's firmware log.")
        for name in sorted(bundle.guest)[:SHOWN_FACTS]:
            fact = ascii(bundle.guest[name])[:SHOWN_FACT]
            self.notes.append(f"Said by the guest, proven by nothing: {name[:40]!a} is {fact}.")


def _recorded_log(log: bytes, record: PairRecord) -> Finding:
    digest = hashlib.sha256(log).digest()
    return Rule.LAUNCH_LOG_RECORDED.judged(
        hmac.compare_digest(digest, record.launch_log_digest),
        f"the launch log has the digest in the pair record, {digest.hex()}",
        f"the launch log's digest is {digest.hex()}, the pair record has "
        f"{record.launch_log_digest.hex()}",
    )
