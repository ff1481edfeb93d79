"""What libraries import on first use, imported while the Manager is still root.

Tandem may be installed where the Manager's own user cannot read, as below `/root`.
"""

from __future__ import annotations

import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.manager.ca import Authority, TpmSigningKey

RSA_EXPONENT = 65537
RSA_BITS = 2048


def warm_up(now: datetime.datetime) -> None:
    """Do once with throw-away keys what is done for a pair: issue, read and seal."""
    key = ec.generate_private_key(ec.SECP256R1())

    def sign_digest(digest: bytes) -> tuple[int, int]:
        return utils.decode_dss_signature(
            key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        )

    authority = Authority("warm-up", TpmSigningKey(key.public_key(), sign_digest))
    issuer = parse_certificate(authority.own_certificate(now))
    issued_by(issuer, issuer)
    some_rsa = rsa.RSAPublicNumbers(RSA_EXPONENT, (1 << RSA_BITS) - 1).public_key()
    for ek in (some_rsa, key.public_key()):
        parse_certificate(authority.ek_certificate(ek, now))
    authority.ak_certificate(key.public_key(), bytes(32), vtpm="warm", guest="up", now=now)
    AESGCM(bytes(32)).encrypt(bytes(12), b"", None)
