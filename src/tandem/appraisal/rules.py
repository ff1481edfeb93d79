"""The rules of an appraisal: one row for each claim of a deep quote, and one finding from each.

The table is what the reference page of findings is generated from.  A rule that could not be
applied, because what it needs was missing or broken, is a WARNING that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from tandem.appraisal.verdict import Claim, Finding, Link, Tier
from tandem.errors import TandemError, UntrustedInput
from tandem.evidence.launch import Tag

_READ_AGAIN: Final = "ask the guest for a new deep quote"
_DISTRUST: Final = "do not trust this guest; look at how its host was set up"
_ENROL: Final = "enrol the host with `tandem verifier enroll`, or give the right policy"
_PREDICT: Final = (
    "boot what the library's entry has; if the change is right, sign the library again"
)
_REBUILD: Final = "start the guest from the entry that the policy names"


class Rule(Enum):
    """Name, claim, link of the chain, and what to do where the rule is broken."""

    EVIDENCE_READABLE = (
        *("evidence-is-readable", Claim.INSTANCE_IDENTITY, Link.DEEP_QUOTE),
        _READ_AGAIN,
    )
    ANCHOR_SIGNED = ("anchor-is-signed", Claim.HARDWARE, Link.PTPM, _ENROL)
    HOST_AK_ENROLLED = ("host-ak-is-enrolled", Claim.HARDWARE, Link.PTPM, _ENROL)
    HARDWARE_ROOT = (
        *("host-has-a-hardware-root", Claim.HARDWARE, Link.PTPM),
        "use a host with a physical TPM, or waive it: `hardware_root = false` in the policy",
    )
    PTPM_QUOTE_MADE = ("ptpm-quote-is-a-quote", Claim.HARDWARE, Link.PTPM, _DISTRUST)
    PTPM_QUOTE_SIGNED = ("ptpm-quote-is-signed", Claim.HARDWARE, Link.PTPM, _DISTRUST)
    PTPM_FORWARD = (
        *("ptpm-did-not-go-back", Claim.HARDWARE, Link.PTPM),
        "find out how the host's TPM was reset or exchanged; enrol the host again if that is right",
    )
    HOST_PCRS_QUOTED = ("host-pcrs-are-quoted", Claim.HARDWARE, Link.PTPM, _DISTRUST)
    HOST_PCRS_RECORDED = (
        *("host-pcrs-are-as-recorded", Claim.CONFIGURATION, Link.PTPM),
        "find what changed on the host; record the new values once it is understood",
    )
    HOST_LOG_RECORDED = (
        *("host-log-is-the-records", Claim.CONFIGURATION, Link.PTPM),
        "read the host's log again with `tandem host log`, and give it with --host-log",
    )
    HOST_LOG_REPLAYS = (
        *("host-log-replays", Claim.CONFIGURATION, Link.PTPM),
        "find what else was measured on the host; the log does not explain its PCRs",
    )
    HOST_LOG_DESCRIBES = (
        *("host-log-says-what-was-measured", Claim.CONFIGURATION, Link.PTPM),
        _DISTRUST,
    )
    IMA_REPLAYS = (
        *("ima-list-replays", Claim.EXECUTABLES, Link.PTPM),
        "read the list again with `tandem host log --ima`, after the quote, and give it whole",
    )
    IMA_CLEAN = (
        *("ima-list-has-no-violations", Claim.EXECUTABLES, Link.PTPM),
        "look at these files on the host; allow them by name in the policy, `[ima] violations`",
    )
    PATH_FITS = ("deep-quote-path-fits", Claim.INSTANCE_IDENTITY, Link.DEEP_QUOTE, _DISTRUST)
    LEAF_QUOTED = (
        *("deep-quote-holds-record-and-vtpm-quote", Claim.INSTANCE_IDENTITY, Link.DEEP_QUOTE),
        _DISTRUST,
    )
    NONCE_FRESH = (
        *("nonce-is-fresh", Claim.INSTANCE_IDENTITY, Link.DEEP_QUOTE),
        "ask with a new nonce and refuse this answer: it may be a replay",
    )
    USER_DATA = (
        *("user-data-is-expected", Claim.INSTANCE_IDENTITY, Link.DEEP_QUOTE),
        "refuse the channel: the answer was made for another one",
    )
    RECORD_READABLE = ("pair-record-is-readable", Claim.INSTANCE_IDENTITY, Link.PAIR, _DISTRUST)
    HOST_EPOCH = (
        *("host-was-not-restored", Claim.INSTANCE_IDENTITY, Link.PAIR),
        "learn which vTPM states the restored backup had put back, then enrol the host again",
    )
    ROLLBACK = (
        *("state-cannot-be-rolled-back", Claim.INSTANCE_IDENTITY, Link.PAIR),
        "use a host whose Manager is strict, or waive it: `strict_rollback = false` in the policy",
    )
    ISSUER_CERTIFIED = ("issuing-key-is-certified", Claim.INSTANCE_IDENTITY, Link.PAIR, _DISTRUST)
    AK_CERTIFIED = ("vtpm-ak-is-certified", Claim.INSTANCE_IDENTITY, Link.PAIR, _DISTRUST)
    AK_IN_FORCE = (
        *("vtpm-ak-certificate-is-in-force", Claim.INSTANCE_IDENTITY, Link.PAIR),
        "ask the guest for a new deep quote: its vTPM renews the certificate; check the clocks",
    )
    AK_CARRIES_RECORD = (
        *("vtpm-ak-certificate-carries-the-record", Claim.INSTANCE_IDENTITY, Link.PAIR),
        _DISTRUST,
    )
    AK_NAMED = ("vtpm-ak-is-the-records", Claim.INSTANCE_IDENTITY, Link.PAIR, _DISTRUST)
    EK_CERTIFIED = ("vtpm-ek-is-certified", Claim.INSTANCE_IDENTITY, Link.PAIR, _DISTRUST)
    NOT_REVOKED = (
        *("vtpm-is-not-revoked", Claim.INSTANCE_IDENTITY, Link.PAIR),
        "fetch the group's newest list with `tandem group crl`; a revoked vTPM stays so",
    )
    VTPM_EXPECTED = ("vtpm-is-expected", Claim.INSTANCE_IDENTITY, Link.PAIR, _REBUILD)
    GUEST_EXPECTED = ("guest-is-expected", Claim.INSTANCE_IDENTITY, Link.PAIR, _REBUILD)
    GROUP_EXPECTED = ("group-is-expected", Claim.INSTANCE_IDENTITY, Link.PAIR, _REBUILD)
    VTPM_QUOTE_MADE = ("vtpm-quote-is-a-quote", Claim.HARDWARE, Link.VTPM, _DISTRUST)
    VTPM_QUOTE_SIGNED = ("vtpm-quote-is-signed", Claim.HARDWARE, Link.VTPM, _DISTRUST)
    VTPM_QUOTE_QUALIFIED = (
        *("vtpm-quote-is-for-this-request", Claim.INSTANCE_IDENTITY, Link.VTPM),
        _DISTRUST,
    )
    PLATFORM_AUTH = (
        *("platform-auth-is-set", Claim.CONFIGURATION, Link.VTPM),
        'boot with firmware that sets it, or let the entry say `platform_auth = "vtpm"`',
    )
    LOCKOUT_AUTH = (
        *("lockout-auth-is-as-demanded", Claim.CONFIGURATION, Link.VTPM),
        "start the guest anew from its entry; its vTPM sets lockoutAuth by itself",
    )
    COUNTS_SHOWN = ("vtpm-ak-shows-true-counts", Claim.HARDWARE, Link.VTPM, _DISTRUST)
    VTPM_NOT_RESET = (
        *("vtpm-was-not-reset", Claim.INSTANCE_IDENTITY, Link.VTPM),
        "end this pair: its vTPM was reset or resumed under the guest",
    )
    VTPM_PCRS_QUOTED = ("vtpm-pcrs-are-quoted", Claim.EXECUTABLES, Link.VTPM, _DISTRUST)
    LAUNCH_MEASURED = (
        *("launch-was-measured", Claim.EXECUTABLES, Link.VTPM),
        "start the guest with Tandem's builder, which measures before the first instruction",
    )
    LAUNCH_LOG_RECORDED = ("launch-log-is-the-records", Claim.EXECUTABLES, Link.PAIR, _DISTRUST)
    LAUNCH_LOG_REPLAYS = ("launch-log-replays", Claim.EXECUTABLES, Link.GUEST, _DISTRUST)
    MANIFEST_SIGNED = (
        *("manifest-is-signed", Claim.CONFIGURATION, Link.GUEST),
        "give the signed manifest and the keys that signed it",
    )
    MANIFEST_RECORDED = (
        *("manifest-is-the-records", Claim.CONFIGURATION, Link.PAIR),
        "give the manifest that the host builds from, or update the host's",
    )
    BUILDER = ("builder-is-known", Claim.EXECUTABLES, Link.GUEST, _REBUILD)
    HYPERVISOR = (
        *("hypervisor-is-known", Claim.EXECUTABLES, Link.GUEST),
        "name its SHA-256 in the policy, or the file in a build-once entry of the manifest",
    )
    CONFIGURATION = (
        *("configuration-matches-manifest", Claim.CONFIGURATION, Link.GUEST),
        _REBUILD,
    )
    NO_DEBUGGER = (
        *("nobody-can-debug-the-guest", Claim.RUNTIME_OPAQUE, Link.GUEST),
        "take `debugger` out of the entry, or allow it: `[machine]`, `debugger = true`",
    )
    CONFINEMENT = ("confinement-is-known", Claim.CONFIGURATION, Link.GUEST, _REBUILD)
    LIBRARY = ("library-matches-manifest", Claim.CONFIGURATION, Link.GUEST, _REBUILD)
    FIRMWARE = ("firmware-matches-manifest", Claim.EXECUTABLES, Link.GUEST, _REBUILD)
    VARIABLES = ("variables-match-manifest", Claim.CONFIGURATION, Link.GUEST, _REBUILD)
    DISKS = ("disks-match-manifest", Claim.EXECUTABLES, Link.GUEST, _REBUILD)
    KERNEL = ("kernel-matches-manifest", Claim.EXECUTABLES, Link.GUEST, _REBUILD)
    COMMAND_LINE = ("command-line-matches-manifest", Claim.CONFIGURATION, Link.GUEST, _REBUILD)
    INITRD = ("initrd-matches-manifest", Claim.EXECUTABLES, Link.GUEST, _REBUILD)
    TABLES = ("roms-match-manifest", Claim.EXECUTABLES, Link.GUEST, _REBUILD)
    UEFI_QUOTED = (
        *("firmware-registers-are-quoted", Claim.EXECUTABLES, Link.GUEST),
        "ask the guest again, with `tandem guest attest --pcrs 0,1,2,3,4,5,6,7,8,9,11,12,13,14`",
    )
    UEFI_LOG = (
        *("guest-log-replays", Claim.EXECUTABLES, Link.GUEST),
        "ask the guest again: its firmware log was not the one of this boot, or was changed",
    )
    SECURE_BOOT = (
        *("secure-boot-is-as-demanded", Claim.CONFIGURATION, Link.GUEST),
        "start the guest with the variable store of the library, or change `[firmware]`",
    )
    UEFI_FIRMWARE = ("firmware-is-as-predicted", Claim.EXECUTABLES, Link.GUEST, _PREDICT)
    UEFI_KEYS = ("secure-boot-keys-are-as-predicted", Claim.CONFIGURATION, Link.GUEST, _PREDICT)
    UEFI_SIGNER = ("boot-signer-is-as-predicted", Claim.EXECUTABLES, Link.GUEST, _PREDICT)
    UEFI_BOOT_OPTIONS = ("boot-options-are-as-predicted", Claim.CONFIGURATION, Link.GUEST, _PREDICT)
    UEFI_PARTITIONS = ("partitions-are-as-predicted", Claim.CONFIGURATION, Link.GUEST, _PREDICT)
    UEFI_LOADER = ("boot-loader-is-as-predicted", Claim.EXECUTABLES, Link.GUEST, _PREDICT)
    UEFI_KERNEL = ("booted-kernel-is-as-predicted", Claim.EXECUTABLES, Link.GUEST, _PREDICT)
    UEFI_COMMAND_LINE = (
        *("booted-command-line-is-as-predicted", Claim.CONFIGURATION, Link.GUEST),
        _PREDICT,
    )
    UEFI_INITRD = ("booted-initrd-is-as-predicted", Claim.EXECUTABLES, Link.GUEST, _PREDICT)
    UEFI_PHASES = ("boot-sequence-is-as-predicted", Claim.EXECUTABLES, Link.GUEST, _PREDICT)

    def __init__(self, title: str, claim: Claim, link: Link, remedy: str) -> None:
        self.title = title
        self.claim = claim
        self.link = link
        self.remedy = remedy

    def holds(self, found: str) -> Finding:
        """Give the finding of a rule that holds."""
        return self._finding(Tier.AFFIRMING, found, "")

    def doubtful(self, found: str) -> Finding:
        """Give the finding of a rule that could not be shown to hold."""
        return self._finding(Tier.WARNING, found, self.remedy)

    def broken(self, found: str) -> Finding:
        """Give the finding of a rule that is broken."""
        return self._finding(Tier.CONTRAINDICATED, found, self.remedy)

    def judged(self, holds: bool, when_so: str, otherwise: str) -> Finding:
        """Give the finding of a rule that holds or is broken."""
        return self.holds(when_so) if holds else self.broken(otherwise)

    def unreadable(self, error: TandemError) -> Finding:
        """Give the finding of evidence that could not be read, or that a rule refused."""
        offset = error.offset if isinstance(error, UntrustedInput) else None
        where = "" if not offset else f" at offset {offset}"
        return Finding(
            rule=self.title,
            claim=self.claim,
            link=self.link,
            tier=Tier.CONTRAINDICATED,
            found=f"{error}{where}",
            remedy=error.hint,
            offset=offset,
        )

    def _finding(self, tier: Tier, found: str, remedy: str) -> Finding:
        return Finding(
            rule=self.title, claim=self.claim, link=self.link, tier=tier, found=found, remedy=remedy
        )


RULE_OF_TAG: Final = {
    Tag.BUILDER: Rule.BUILDER,
    Tag.HYPERVISOR: Rule.HYPERVISOR,
    Tag.CONFIGURATION: Rule.CONFIGURATION,
    Tag.POLICY: Rule.CONFINEMENT,
    Tag.MANIFEST: Rule.LIBRARY,
    Tag.FIRMWARE: Rule.FIRMWARE,
    Tag.KERNEL: Rule.KERNEL,
    Tag.COMMAND_LINE: Rule.COMMAND_LINE,
    Tag.INITRD: Rule.INITRD,
    Tag.TABLES: Rule.TABLES,
    Tag.DISK: Rule.DISKS,
    Tag.VARIABLES: Rule.VARIABLES,
}


UEFI: Final = frozenset((  # of a guest that boots by UEFI
    *(Rule.UEFI_QUOTED, Rule.UEFI_LOG, Rule.SECURE_BOOT),
    *(rule for rule in Rule if rule.title.endswith("-as-predicted")),
))  # fmt: skip
# What a verifier may have, or do without: these are judged where it is given or demanded.
OPTIONAL: Final = frozenset((
    *(Rule.HOST_LOG_RECORDED, Rule.HOST_LOG_REPLAYS, Rule.HOST_LOG_DESCRIBES),
    *(Rule.IMA_REPLAYS, Rule.IMA_CLEAN, Rule.EK_CERTIFIED, Rule.NOT_REVOKED),
    *UEFI,
))  # fmt: skip


def unchecked(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Give a WARNING for each rule that is not optional and that no finding came from."""
    applied = {finding.rule for finding in found}
    reason = "not checked: what it needs is missing or broken"
    return tuple(
        rule.doubtful(reason) for rule in Rule if rule.title not in applied and rule not in OPTIONAL
    )
