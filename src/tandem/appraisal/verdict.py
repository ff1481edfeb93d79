"""Verdict: the attestation result of one appraisal (RFC 9334, section 8.4).

Tiers and claims carry the names of the RATS attestation-result vocabulary (AR4SI), so that a
relying party can read ours beside another verifier's.  A verdict has no truth value.  `if
verdict:` would be true for every verdict, the worst included, so it raises instead: ask `tier`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NoReturn


class Tier(IntEnum):
    """How far a claim can be trusted (AR4SI, section 2.3.2); a greater number is worse."""

    NONE = 0  # nothing was checked
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96


class Claim(StrEnum):
    """What a finding is about: AR4SI's trustworthiness claims (section 2.3.4)."""

    INSTANCE_IDENTITY = "instance-identity"
    CONFIGURATION = "configuration"
    EXECUTABLES = "executables"
    FILE_SYSTEM = "file-system"
    HARDWARE = "hardware"
    RUNTIME_OPAQUE = "runtime-opaque"
    STORAGE_OPAQUE = "storage-opaque"
    SOURCED_DATA = "sourced-data"


class Link(StrEnum):
    """The part of the chain that a finding holds or breaks, from the guest down to the pTPM."""

    GUEST = "guest"
    VTPM = "vTPM"
    PAIR = "pair"
    DEEP_QUOTE = "deep quote"
    PTPM = "pTPM"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: the rule applied, what the evidence said, and what to do about it."""

    rule: str
    claim: Claim
    link: Link
    tier: Tier
    found: str
    remedy: str = ""
    offset: int | None = None  # in the part of the evidence that `found` names

    def __post_init__(self) -> None:
        if self.tier is Tier.NONE:
            raise ValueError("a finding judges; what was not checked is a WARNING that says so")

    def __str__(self) -> str:
        line = f"{self.tier.name.lower():15} {self.rule}: {self.found}"
        return f"{line}; {self.remedy}" if self.remedy else line


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Every finding of an appraisal, in the order of the checks; notes judge nothing."""

    attester: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def tier(self) -> Tier:
        """The worst tier found; an appraisal that checked nothing affirms nothing."""
        return max((finding.tier for finding in self.findings), default=Tier.NONE)

    @property
    def word(self) -> str:
        """The verdict in a word or two: only an affirming one is `trusted`."""
        return "trusted" if self.tier is Tier.AFFIRMING else "not trusted"

    def about(self, claim: Claim) -> tuple[Finding, ...]:
        """Give the findings on one claim."""
        return tuple(finding for finding in self.findings if finding.claim is claim)

    def along(self, link: Link) -> tuple[Finding, ...]:
        """Give the findings on one link of the chain."""
        return tuple(finding for finding in self.findings if finding.link is link)

    def __bool__(self) -> NoReturn:
        raise TypeError("a Verdict has no truth value: compare its tier")
