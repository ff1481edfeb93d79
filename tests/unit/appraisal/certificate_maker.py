"""Certificates made to order, honest and hostile ones, with software keys."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tandem.evidence import oids
from tandem.evidence.certificates import Certificate, parse_certificate

NOW = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@dataclass
class Maker:
    """One certificate's subject; what stands here goes into its certificate, None leaves it out."""

    subject: str
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    is_ca: bool | None = True
    path_length: int | None = None
    uses: tuple[str, ...] | None = ("key_cert_sign",)
    usages: tuple[str, ...] = ()
    begins: datetime.datetime = NOW - DAY
    ends: datetime.datetime = NOW + 365 * DAY
    digest: hashes.SHA224 | hashes.SHA256 | hashes.SHA384 = field(default_factory=hashes.SHA256)
    critical: x509.ExtensionType | None = None
    key_id: bytes | None = None
    authority_key_id: bytes | None = None

    def issued_by(
        self, issuer: Maker, signer: ec.EllipticCurvePrivateKey | None = None
    ) -> Certificate:
        """Issue it in the issuer's name, signed with its key or with another."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.subject))
            .issuer_name(name(issuer.subject))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins)
            .not_valid_after(self.ends)
        )
        for extension, critical in self._extensions():
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(signer or issuer.key, self.digest)
        return parse_certificate(certificate.public_bytes(Encoding.DER))

    def self_issued(self) -> Certificate:
        return self.issued_by(self)

    def _extensions(self) -> list[tuple[x509.ExtensionType, bool]]:
        found: list[tuple[x509.ExtensionType, bool]] = []
        if self.is_ca is not None:
            found.append((x509.BasicConstraints(self.is_ca, self.path_length), True))
        if self.uses is not None:
            uses = {each: each in self.uses for each in USES}
            found.append((x509.KeyUsage(**uses), True))
        if self.usages:
            listed = [x509.ObjectIdentifier(each) for each in self.usages]
            found.append((x509.ExtendedKeyUsage(listed), False))
        if self.critical is not None:
            found.append((self.critical, True))
        if self.key_id is not None:
            found.append((x509.SubjectKeyIdentifier(self.key_id), False))
        if self.authority_key_id is not None:
            identifier = x509.AuthorityKeyIdentifier(self.authority_key_id, None, None)
            found.append((identifier, False))
        return found


def ek_maker(subject: str = "a TPM") -> Maker:
    """Give the maker of a P-256 EK's certificate."""
    return Maker(subject, is_ca=False, uses=("key_agreement",), usages=(oids.EK_CERTIFICATE,))
