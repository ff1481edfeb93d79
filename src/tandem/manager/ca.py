"""The certificate authority of a group: its key is in the pTPM, its certificates say what TCG asks.

EK certificates follow the TCG EK Credential Profile for TPM 2.0, version 2.5, section 3.  An AK
certificate names vTPM and guest and carries the SHA-256 of the pair record.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Final, NoReturn

from cryptography import utils as cryptography_utils
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tandem.evidence import oids
from tandem.evidence.tpm_types import PublicKey

DAY: Final = datetime.timedelta(days=1)
CA_LIFE: Final = 3650 * DAY
EK_LIFE: Final = 3650 * DAY
AK_LIFE: Final = 366 * DAY  # one launch: it gets no second certificate, however long it lasts
SKEW: Final = datetime.timedelta(minutes=5)  # a verifier's clock may be behind
MANUFACTURER: Final = "id:54444D00"  # "TDM"
MODEL: Final = "Tandem vTPM"
VERSION: Final = "id:00010000"
_OCTET_STRING: Final = b"\x04\x20"  # DER head of a SHA-256 digest

SignDigest = Callable[[bytes], tuple[int, int]]


class TpmSigningKey(ec.EllipticCurvePrivateKey):
    """A P-256 key whose private part stays in a TPM; it signs SHA-256 digests and nothing else."""

    def __init__(self, public: ec.EllipticCurvePublicKey, sign_digest: SignDigest) -> None:
        self._public = public
        self._sign_digest = sign_digest

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """256."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Give the public half."""
        return self._public

    def sign(
        self,
        data: cryptography_utils.Buffer,
        signature_algorithm: ec.EllipticCurveSignatureAlgorithm,  # ECDSA always
    ) -> bytes:
        """Sign the SHA-256 of `data`; gives a DER ECDSA signature."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(data)
        return utils.encode_dss_signature(*self._sign_digest(digest.finalize()))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Refuse: the key signs."""
        raise TypeError("a TPM signing key does not agree on keys")

    def private_numbers(self) -> NoReturn:
        """Refuse: the number is in the TPM."""
        raise TypeError("the private key stays in the TPM")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # the interface's name
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        """Refuse: the bytes are in the TPM."""
        raise TypeError("the private key stays in the TPM")

    def __copy__(self) -> TpmSigningKey:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> TpmSigningKey:
        return self


class Authority:
    """A group's CA."""

    def __init__(self, group: str, key: TpmSigningKey) -> None:
        self._key = key
        self._name = _name("Tandem group CA", group)

    def own_certificate(self, now: datetime.datetime) -> bytes:
        """Issue the CA's own certificate (DER), signed by itself."""
        usage = _key_usage(key_cert_sign=True, crl_sign=True)
        builder = (
            _builder(self._name, self._name, self._key.public_key(), now, CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
        )
        return self._signed(builder)

    def ek_certificate(self, key: PublicKey, now: datetime.datetime) -> bytes:
        """Issue the certificate of a vTPM's EK."""
        is_rsa = isinstance(key, rsa.RSAPublicKey)
        usage = _key_usage(key_encipherment=is_rsa, key_agreement=not is_rsa)
        device = x509.Name([
            x509.NameAttribute(ObjectIdentifier(oids.TPM_MANUFACTURER), MANUFACTURER),
            x509.NameAttribute(ObjectIdentifier(oids.TPM_MODEL), MODEL),
            x509.NameAttribute(ObjectIdentifier(oids.TPM_VERSION), VERSION),
        ])  # fmt: skip
        names = x509.SubjectAlternativeName([x509.DirectoryName(device)])
        builder = self._leaf(x509.Name([]), key, now, EK_LIFE, oids.EK_CERTIFICATE)
        return self._signed(
            # The subject is empty, so the alternative name is critical (RFC 5280, 4.2.1.6).
            builder.add_extension(usage, critical=True).add_extension(names, critical=True)
        )

    def ak_certificate(
        self, key: PublicKey, record_digest: bytes, *, vtpm: str, guest: str, now: datetime.datetime
    ) -> bytes:
        """Issue the certificate of a vTPM's AK for one launch."""
        record = x509.UnrecognizedExtension(
            ObjectIdentifier(oids.PAIR_RECORD_DIGEST), _OCTET_STRING + record_digest
        )
        builder = self._leaf(_name(guest, vtpm), key, now, AK_LIFE, oids.AK_CERTIFICATE)
        return self._signed(
            builder.add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(record, critical=False)
        )  # fmt: skip

    def _leaf(
        self,
        subject: x509.Name,
        key: PublicKey,
        now: datetime.datetime,
        life: datetime.timedelta,
        usage: str,
    ) -> x509.CertificateBuilder:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            _builder(self._name, subject, key, now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(authority, critical=False)
            .add_extension(x509.ExtendedKeyUsage([ObjectIdentifier(usage)]), critical=False)
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.DER)


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: PublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
    )


def _name(common: str, unit: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        x509.NameAttribute(NameOID.COMMON_NAME, common),
    ])  # fmt: skip


def _key_usage(**wanted: bool) -> x509.KeyUsage:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in every})
