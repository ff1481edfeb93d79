"""Certificate paths (RFC 5280, section 6): from a key's certificate up to a root that was given.

Everything is judged as of one time.  Names only propose an issuer; constraints, validity and the
signature decide.  Whatever certificates are given, loops included, the search ends, and a path that
is not there has a reason that a person can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tandem.evidence import oids
from tandem.evidence.certificate_extensions import Extensions, read_extensions
from tandem.evidence.certificates import Certificate, issued_by

MAX_LENGTH: Final = 8  # certificates of a path, leaf and root included
MAX_TRIED: Final = 256  # issuers in one search: each may cost a signature check
MIN_RSA_BITS: Final = 2048
ANY_USAGE: Final = "2.5.29.37.0"  # anyExtendedKeyUsage
SIGNATURE_HASHES: Final = frozenset(("sha256", "sha384", "sha512"))
CURVES: Final = frozenset(("secp256r1", "secp384r1", "secp521r1"))
SHOWN: Final = 120  # characters of a name


@dataclass(frozen=True, kw_only=True)
class Path:
    """Certificates from the leaf to a root; or none, and what is wrong."""

    certificates: tuple[Certificate, ...]
    problem: str

    @property
    def found(self) -> bool:
        """Whether the leaf leads to a root."""
        return bool(self.certificates)


def find_ek_path(
    leaf: Certificate,
    intermediates: Sequence[Certificate],
    roots: Sequence[Certificate],
    at: datetime,
) -> Path:
    """Find the path of an EK certificate (EK Credential Profile 2.5, section 3.2)."""
    problem = ek_problem(leaf, at)
    if problem:
        return Path(certificates=(), problem=problem)
    search = _Search(intermediates, roots, oids.EK_CERTIFICATE, at)
    found = search.extend((leaf,))
    return Path(certificates=found, problem="" if found else search.problem)


def ek_problem(leaf: Certificate, at: datetime) -> str:
    """Say why a certificate is not one of an EK in force; empty where it is."""
    extensions, who = read_extensions(leaf), "the EK certificate"
    wanted = "key_encipherment" if isinstance(leaf.key, rsa.RSAPublicKey) else "key_agreement"
    if leaf.is_ca:
        return f"{who} is one of a CA"
    if oids.EK_CERTIFICATE not in leaf.usages:
        return f"{who} is not for EKs: extended key usage {oids.EK_CERTIFICATE} is missing"
    if extensions.key_usage is None or wanted not in extensions.key_usage:
        return f"{who} does not allow {wanted.replace('_', ' ')} (key usage)"
    return _general_problem(leaf, extensions, at, who)


def issuing_problem(
    certificate: Certificate, issuer: Certificate, *, below: int, purpose: str, at: datetime
) -> str:
    """Say why `issuer` did not, or may not, issue; empty where all is well.

    `below` is how many CAs stand between the two ends already; `purpose` is the leaf's extended
    key usage, which an issuer that restricts usages must name.
    """
    extensions, who = read_extensions(issuer), f"CA {_shown(issuer.subject)}"
    return (
        _may_not_issue(issuer, extensions, who, below, purpose)
        or _general_problem(issuer, extensions, at, who)
        or _not_signed(certificate, issuer, extensions, who)
    )


def _may_not_issue(
    issuer: Certificate, extensions: Extensions, who: str, below: int, purpose: str
) -> str:
    if not issuer.is_ca:
        return f"{_shown(issuer.subject)} is no CA (basic constraints)"
    if extensions.key_usage is not None and "key_cert_sign" not in extensions.key_usage:
        return f"{who} may not sign certificates (key usage)"
    if extensions.path_length is not None and extensions.path_length < below:
        return f"{who} allows {extensions.path_length} CAs below it, here are {below}"
    if issuer.usages and not {purpose, ANY_USAGE} & set(issuer.usages):
        return f"{who} is for other certificates: extended key usage {purpose} is missing"
    return ""


def _not_signed(
    certificate: Certificate, issuer: Certificate, extensions: Extensions, who: str
) -> str:
    own, subject = read_extensions(certificate), _shown(certificate.subject)
    key_ids = (own.authority_key_id, extensions.subject_key_id)
    if None not in key_ids and key_ids[0] != key_ids[1]:
        return f"{who} has another key than the one that issued {subject}"
    if own.signature_hash not in SIGNATURE_HASHES:
        return f"{subject} is signed with {own.signature_hash or 'an unknown'} hash"
    if not issued_by(certificate, issuer):
        return f"{who} is named as issuer, but did not sign {subject}"
    return ""


def _general_problem(
    certificate: Certificate, extensions: Extensions, at: datetime, who: str
) -> str:
    if at < certificate.not_before:
        return f"{who} is not in force before {certificate.not_before.isoformat()}"
    if at > certificate.not_after:
        return f"{who} expired on {certificate.not_after.isoformat()}"
    if extensions.unknown_critical:
        return f"{who} has an unknown critical extension {extensions.unknown_critical[0]}"
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return ""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return ""
    return f"{who} has a weak key, or one of an unknown algorithm"


@dataclass
class _Search:
    """A search under way; `problem` is what stopped the longest path so far."""

    intermediates: Sequence[Certificate]
    roots: Sequence[Certificate]
    purpose: str
    at: datetime
    problem: str = ""
    tried: int = 0
    length: int = 0

    def extend(self, path: tuple[Certificate, ...]) -> tuple[Certificate, ...]:
        """Give the whole path from `path` on; empty where there is none."""
        last = path[-1]
        candidates = [
            (each, is_root)
            for group, is_root in ((self.roots, True), (self.intermediates, False))
            for each in group
            if each.parsed.subject == last.parsed.issuer and each not in path  # no loop
        ]
        if not candidates:
            self._note(path, f"no certificate of {_shown(last.issuer)} leads on to a given root")
        for issuer, is_root in candidates:
            self.tried += 1
            if self.tried > MAX_TRIED or len(path) >= MAX_LENGTH:
                self._note(path, f"more than {MAX_LENGTH} certificates, or {MAX_TRIED} issuers")
                return ()
            problem = issuing_problem(
                last, issuer, below=len(path) - 1, purpose=self.purpose, at=self.at
            )
            if problem:
                self._note(path, problem)
                continue
            whole = (*path, issuer) if is_root else self.extend((*path, issuer))
            if whole:
                return whole
        return ()

    def _note(self, path: tuple[Certificate, ...], problem: str) -> None:
        if len(path) > self.length:
            self.length, self.problem = len(path), problem


def _shown(name: str) -> str:
    return ascii(name[:SHOWN]) if name else "a certificate without a subject"
