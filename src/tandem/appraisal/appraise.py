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
from tandem.appraisal.authorizations import appraise_authorizations
from tandem.appraisal.chain import appraise_anchor, appraise_host_ak
from tandem.appraisal.deep_quotes import appraise_record, appraise_request, appraise_tree
from tandem.appraisal.firmware import appraise_firmware, appraise_without_firmware
from tandem.appraisal.host_logs import appraise_host_log, appraise_ima_list
from tandem.appraisal.host_state import appraise_epoch, appraise_ptpm_state, appraise_rollback
from tandem.appraisal.issuing import (
    appraise_ak_certificate,
    appraise_ek,
    appraise_in_force,
    appraise_issue,
    appraise_issuer,
)
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
from tandem.appraisal.revocation import appraise_revocation
from tandem.appraisal.rules import Rule, unchecked
from tandem.appraisal.verdict import Finding, Verdict
from tandem.errors import UntrustedInput
from tandem.evidence.attest import Quote
from tandem.evidence.bundle import Evidence, parse_evidence
from tandem.evidence.certificate_files import parse_certificates
from tandem.evidence.certificates import Certificate, parse_certificate
from tandem.evidence.deep_quote import DeepQuote, qualifying_data
from tandem.evidence.guest_entry import GuestEntry, UefiBoot
from tandem.evidence.ima_log import IMA_REGISTER
from tandem.evidence.manifest import OnceEntry
from tandem.evidence.pair_record import PairRecord, record_digest
from tandem.evidence.prediction import REGISTERS
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


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the verifier has beside the evidence; its logs stand before those in there."""

    host_log: bytes | None = None
    ima_log: bytes | None = None
    ek_certificates: bytes | None = None  # of the vTPM's RSA EK, and of the CAs above it


def appraise(
    evidence: bytes, policy: Policy, nonce: bytes, at: datetime, given: Given | None = None
) -> Verdict:
    """Judge evidence by a policy; `nonce` is what was asked with, `at` an aware time."""
    appraisal = _Appraisal(policy=policy, nonce=nonce, at=at, given=given or Given())
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
    given: Given
    attester: str = UNKNOWN
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    judged: frozenset[int] = frozenset()  # registers of the guest's firmware

    def run(self, bundle: Evidence) -> None:
        """Go down the chain: host, deep quote, pair, vTPM, guest."""
        answer = bundle.answer
        anchor, findings = appraise_anchor(self.policy)
        self.findings += [*findings, appraise_host_ak(answer.host_ak, anchor)]
        self._host(answer, anchor)
        record = self._pair(answer, anchor)
        if record is not None:
            self._host_logs(bundle, record)
        ak = self._certificates(answer, record, anchor)
        self._vtpm(answer, record, ak)
        self._launch(answer, record, bundle.firmware_log)
        self._note_what_is_not_judged(bundle)

    def _host(self, answer: DeepQuote, anchor: Anchor | None) -> None:
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
            if anchor is not None:
                self.findings.append(appraise_ptpm_state(quote, anchor, policy))
        recorded = policy.host_pcrs
        if recorded is None and anchor is not None:
            recorded = {
                index: value for index, value in anchor.state.pcrs.items() if index != IMA_REGISTER
            }
        self.findings.append(appraise_host(answer.ptpm_pcrs, recorded or {}))
        self.findings += appraise_tree(answer, quote)

    def _pair(self, answer: DeepQuote, anchor: Anchor | None) -> PairRecord | None:
        policy = self.policy.text
        self.findings += appraise_request(answer, policy, self.nonce)
        record, findings = appraise_record(answer.record, policy)
        self.findings += findings
        if record is not None:
            self.attester = ascii(record.guest[:64]).strip("'")
            self.findings.append(appraise_rollback(record, policy))
            if anchor is not None:
                self.findings.append(appraise_epoch(record, anchor))
        return record

    def _host_logs(self, bundle: Evidence, record: PairRecord) -> None:
        """Judge the host's logs where they are given; say what is missing where it is demanded."""
        policy, values = self.policy.text, bundle.answer.ptpm_pcrs
        host_log = bundle.host_log if self.given.host_log is None else self.given.host_log
        ima_log = bundle.ima_log if self.given.ima_log is None else self.given.ima_log
        if host_log is not None:
            self.findings += appraise_host_log(host_log, record, values)
        elif policy.event_log:
            self.findings.append(Rule.HOST_LOG_RECORDED.doubtful("the host's log is not given"))
        if ima_log is not None:
            self.findings += appraise_ima_list(ima_log, values, policy.ima_violations or ())
        elif policy.ima_violations is not None:
            self.findings.append(Rule.IMA_REPLAYS.doubtful("the host's IMA list is not given"))
        elif IMA_REGISTER in values:
            self.notes.append(f"Quoted and not judged: host PCR {IMA_REGISTER}; give its IMA list.")

    def _certificates(
        self, answer: DeepQuote, record: PairRecord | None, anchor: Anchor | None
    ) -> bytes | None:
        """Judge the way from the group's CA to the AK; gives the AK where a certificate has it."""
        try:
            certificate = parse_certificate(answer.ak_certificate)
        except UntrustedInput as error:
            self.findings.append(Rule.AK_CERTIFIED.unreadable(error))
            return None
        ak, findings = appraise_ak_certificate(certificate, record, answer.record)
        self.findings += [*findings, appraise_in_force(certificate, self.at)]
        if anchor is not None and record is not None:
            issuer, certified = appraise_issuer(
                answer.issuer_certificate, record.group, anchor, self.at
            )
            self.findings.append(certified)
            if issuer is not None:
                self.findings.append(appraise_issue(certificate, issuer, self.at))
                eks = self._endorsement(record, anchor)
                self._revocation(record.group, anchor, (certificate, issuer, *eks))
        return ak

    def _endorsement(self, record: PairRecord, anchor: Anchor) -> tuple[Certificate, ...]:
        """Judge the EK's certificate where one is given; gives what may be revoked of it."""
        if self.given.ek_certificates is None:
            return ()
        try:
            certificates = parse_certificates(self.given.ek_certificates)
        except UntrustedInput as error:
            self.findings.append(Rule.EK_CERTIFIED.unreadable(error))
            return ()
        self.findings.append(appraise_ek(certificates, record, anchor, self.at))
        return certificates

    def _revocation(
        self, group: str, anchor: Anchor, certificates: tuple[Certificate, ...]
    ) -> None:
        if self.policy.crl is not None:
            found = appraise_revocation(self.policy.crl, group, anchor, certificates, self.at)
            self.findings.append(found)
        elif self.policy.text.crl_file is not None:
            self.findings.append(Rule.NOT_REVOKED.doubtful("no revocation list is given"))

    def _vtpm(self, answer: DeepQuote, record: PairRecord | None, ak: bytes | None) -> None:
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
        expected = qualifying_data(
            *(answer.nonce, answer.user_data, record_digest(answer.record)),
            answer.authorizations,
        )
        self.findings.append(appraise_qualifying_data(quote, expected))
        if record is not None:
            self.findings.append(appraise_counts(quote, record))
        self.findings.append(appraise_quoted(Rule.VTPM_PCRS_QUOTED, quote, answer.vtpm_pcrs))

    def _launch(self, answer: DeepQuote, record: PairRecord | None, log: bytes | None) -> None:
        manifest, findings = appraise_manifest(self.policy)
        self.findings += findings
        events, replayed = read_launch(answer.launch_log, answer.vtpm_pcrs)
        if record is not None:
            self.findings.append(_recorded_log(answer.launch_log, record))
        self.findings.append(replayed)
        if manifest is not None:
            self._firmware(manifest.entries[self.policy.text.entry], answer, log)
        if manifest is not None:
            entry = manifest.entries[self.policy.text.entry]
            self.findings += appraise_authorizations(answer.authorizations, entry)
        if manifest is not None and record is not None:
            self.findings.append(appraise_recorded_manifest(manifest, record))
            if events is not None:
                self.findings += appraise_events(events, manifest, self.policy.text, record)

    def _firmware(
        self, entry: GuestEntry | OnceEntry, answer: DeepQuote, log: bytes | None
    ) -> None:
        """Judge what the guest's own firmware measured, where it boots by UEFI."""
        demanded = self.policy.text.secure_boot
        if isinstance(entry, GuestEntry) and isinstance(entry.boot, UefiBoot):
            self.judged = frozenset(REGISTERS)
            if demanded is None and entry.boot.secure_boot:
                demanded = True
            self.findings += appraise_firmware(
                entry.boot.prediction, answer.vtpm_pcrs, log, demanded
            )
        else:
            self.findings += appraise_without_firmware(demanded)

    def _note_what_is_not_judged(self, bundle: Evidence) -> None:
        others = sorted(bundle.answer.vtpm_pcrs.keys() - {*LAUNCH_REGISTERS, *self.judged})
        if others:
            listed = ", ".join(map(str, others))
            self.notes.append(f"Quoted and not judged: vTPM PCR {listed}.")
        if bundle.firmware_log is not None and not self.judged:
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
