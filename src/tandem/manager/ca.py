"""The certificate authority of a group: its key is in the pTPM, and certifies issuing keys.

Issuing keys are further keys of the same authority and so bear its name (self-issued certificates,
RFC 5280, 3.2): the authority's one revocation list speaks for all that any of them issued.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from cryptography import utils as cryptography_utils
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ObjectIdentifier

from tandem.manager.certificates import DAY, NO_END, SKEW, certificate, key_usage, name, signed

KEY_LIFE: Final = DAY  # of an issuing key in memory
LIST_LIFE: Final = 7 * DAY

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
    """A group's CA; each signature is one command of the pTPM."""

    def __init__(self, group: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.name = name("Tandem group CA", group)

    def own_certificate(self, now: datetime.datetime) -> bytes:
        """Issue the CA's own certificate (DER), signed by itself.

        One level of issuing keys is below it.  Self-issued certificates do not count into a path's
        length (RFC 5280, 6.1.4), but there are verifiers that count them.
        """
        public = self._key.public_key()
        return signed(
            _authority_certificate(self.name, public, now, NO_END, path_length=1)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True),
            self._key,
        )  # fmt: skip

    def issuing_certificate(
        self,
        key: ec.EllipticCurvePublicKey,
        *,
        usage: str,
        now: datetime.datetime,
        end: datetime.datetime,
    ) -> bytes:
        """Certify an issuing key (DER) for certificates of one extended key usage.

        The certificate is valid as long as what the key issues; the key itself is in use for a day.
        """
        period = x509.PrivateKeyUsagePeriod(now - SKEW, now + KEY_LIFE)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return signed(
            _authority_certificate(self.name, key, now, end, path_length=0)
            .add_extension(key_usage(key_cert_sign=True), critical=True)
            .add_extension(authority, critical=False)
            .add_extension(x509.ExtendedKeyUsage([ObjectIdentifier(usage)]), critical=False)
            .add_extension(period, critical=False),
            self._key,
        )

    def revocation_list(
        self, revoked: Mapping[bytes, int], number: int, now: datetime.datetime
    ) -> bytes:
        """Sign the list (DER) of revoked serial numbers, with the Unix time of each."""
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - SKEW)
            .next_update(now + LIST_LIFE)
            .add_extension(authority, critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, at in sorted(revoked.items()):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int.from_bytes(serial))
                .revocation_date(datetime.datetime.fromtimestamp(at, datetime.UTC))
                .build()
            )
        signed_list = builder.sign(self._key, hashes.SHA256())
        return signed_list.public_bytes(serialization.Encoding.DER)


def _authority_certificate(
    authority: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    end: datetime.datetime,
    path_length: int,
) -> x509.CertificateBuilder:
    return (
        certificate(issuer=authority, subject=authority, key=key, begin=now, end=end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
