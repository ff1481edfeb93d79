"""Issuing keys of a group: made in this process's memory, certified by its CA key in the pTPM.

So a certificate costs the pTPM nothing.  There are two keys: one for EK certificates, whose own
certificate is valid as long as those are, without end; and one for AK certificates, whose own is
valid two days.  Both are forgotten after a day, so what is stolen with this process's memory
certifies attestation keys for two days at most.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ObjectIdentifier

from tandem.errors import HostError
from tandem.evidence import oids
from tandem.evidence.certificates import encode_counts, serial_bytes
from tandem.evidence.pair_record import PairRecord, record_digest
from tandem.evidence.tpm_types import PublicKey
from tandem.manager.ca import KEY_LIFE, Authority
from tandem.manager.certificates import DAY, NO_END, SKEW, certificate, key_usage, name, signed

AK_LIFE: Final = DAY
RENEWED_AFTER: Final = KEY_LIFE / 2
MANUFACTURER: Final = "id:54444D00"  # "TDM"
MODEL: Final = "Tandem vTPM"
VERSION: Final = "id:00010000"
_RECORD_HEAD: Final = b"\x04\x20"  # DER: an OCTET STRING of 32 bytes
_DEVICE: Final = x509.SubjectAlternativeName([
    x509.DirectoryName(x509.Name([
        x509.NameAttribute(ObjectIdentifier(oids.TPM_MANUFACTURER), MANUFACTURER),
        x509.NameAttribute(ObjectIdentifier(oids.TPM_MODEL), MODEL),
        x509.NameAttribute(ObjectIdentifier(oids.TPM_VERSION), VERSION),
    ]))
])  # fmt: skip
# SubjectDirectoryAttributes with the one attribute tPMSpecification (EK Credential Profile 2.5,
# section 3): family "2.0", level 0, revision 164, which is what libtpms implements.
_SPECIFICATION: Final = x509.UnrecognizedExtension(
    ObjectIdentifier(oids.SUBJECT_DIRECTORY_ATTRIBUTES),
    bytes.fromhex("3019301706056781050210310e300c0c03322e30020100020200a4"),
)


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate (DER), and what its renewal and its revocation need to know."""

    der: bytes
    serial: bytes
    end: datetime.datetime


class IssuingKey:
    """A key of the authority, for certificates of one extended key usage."""

    def __init__(
        self, authority: Authority, usage: str, now: datetime.datetime, end: datetime.datetime
    ) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._usage = x509.ExtendedKeyUsage([ObjectIdentifier(usage)])
        self._name = authority.name
        self.certificate = authority.issuing_certificate(
            self._key.public_key(), usage=usage, now=now, end=end
        )

    def leaf(
        self, subject: x509.Name, key: PublicKey, now: datetime.datetime, end: datetime.datetime
    ) -> x509.CertificateBuilder:
        """Begin the certificate of a key that certifies nothing."""
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            certificate(issuer=self._name, subject=subject, key=key, begin=now, end=end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(authority, critical=False)
            .add_extension(self._usage, critical=False)
        )

    def issue(self, builder: x509.CertificateBuilder) -> Issued:
        """Sign a certificate."""
        der = signed(builder, self._key)
        made = x509.load_der_x509_certificate(der)
        return Issued(
            der=der, serial=serial_bytes(made.serial_number), end=made.not_valid_after_utc
        )


class IssuingKeys:
    """The issuing keys of one open group: made once, then of no use after `KEY_LIFE`."""

    def __init__(self, authority: Authority, now: datetime.datetime) -> None:
        self._made_at = now
        self._for_eks = IssuingKey(authority, oids.EK_CERTIFICATE, now, NO_END)
        self._for_aks = IssuingKey(authority, oids.AK_CERTIFICATE, now, now + KEY_LIFE + AK_LIFE)

    @property
    def endorsement(self) -> bytes:
        """The certificate (DER) of the key that certifies EKs."""
        return self._for_eks.certificate

    @property
    def attestation(self) -> bytes:
        """The certificate (DER) of the key that certifies AKs."""
        return self._for_aks.certificate

    def due(self, now: datetime.datetime) -> bool:
        """Whether it is time for new ones; a clock that was put back counts, too."""
        return not self._made_at - SKEW <= now < self._made_at + RENEWED_AFTER

    def usable(self, now: datetime.datetime) -> bool:
        """Whether these may still sign."""
        return self._made_at - SKEW <= now < self._made_at + KEY_LIFE

    def ek_certificate(self, key: PublicKey, now: datetime.datetime) -> Issued:
        """Issue the certificate of a vTPM's EK (EK Credential Profile 2.5, section 3).

        It names no place to fetch a revocation list from: a host has no address that holds for as
        long as the certificate does.
        """
        self._require_usable(now)
        is_rsa = isinstance(key, rsa.RSAPublicKey)
        usage = key_usage(key_encipherment=is_rsa, key_agreement=not is_rsa)
        return self._for_eks.issue(
            self._for_eks.leaf(x509.Name([]), key, now, NO_END)
            .add_extension(usage, critical=True)
            # The subject is empty, so the alternative name is critical (RFC 5280, 4.2.1.6).
            .add_extension(_DEVICE, critical=True)
            .add_extension(_SPECIFICATION, critical=False)
        )

    def ak_certificate(self, key: PublicKey, record: PairRecord, now: datetime.datetime) -> Issued:
        """Issue the certificate of a vTPM's AK for a part of the launch that `record` is of."""
        self._require_usable(now)
        digest = x509.UnrecognizedExtension(
            ObjectIdentifier(oids.PAIR_RECORD_DIGEST), _RECORD_HEAD + record_digest(record.encode())
        )
        counts = x509.UnrecognizedExtension(
            ObjectIdentifier(oids.EXPECTED_COUNTS),
            encode_counts(record.reset_count, record.restart_count),
        )
        subject = name(record.guest, record.vtpm)
        return self._for_aks.issue(
            self._for_aks.leaf(subject, key, now, now + AK_LIFE)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(_DEVICE, critical=False)
            .add_extension(digest, critical=False)
            .add_extension(counts, critical=False)
        )

    def _require_usable(self, now: datetime.datetime) -> None:
        if not self.usable(now):
            raise HostError(
                "TDM-ISSUING-KEY-EXPIRED",
                "the group's issuing keys are more than a day old, and the pTPM certified no new "
                "ones since",
                hint="see in the Manager's log why, and set the host's clock; then ask again",
            )
