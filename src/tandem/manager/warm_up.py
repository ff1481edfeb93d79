"""What libraries import on first use, imported while the Manager is still root.

Tandem may be installed where the Manager's own user cannot read, as below `/root`.
"""

from __future__ import annotations

import datetime

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.evidence.pair_record import PairRecord
from tandem.evidence.revocation import parse_revocation_list, signed_by
from tandem.manager.ca import Authority
from tandem.manager.issuing import IssuingKeys

RSA_EXPONENT = 65537
RSA_BITS = 2048
RECORD = PairRecord(
    format="",
    pair_id=b"",
    vtpm_id=b"",
    vtpm="warm",
    guest="up",
    group="",
    launch_number=0,
    launch_log_digest=b"",
    ek_name=b"",
    ak_name=b"",
    reset_count=0,
    restart_count=0,
    hypervisor="",
    builder="",
    manifest_digest=b"",
    manifest_version=0,
    host_log_digest=b"",
    epoch=0,
    rollback_window=0,
    started_at=0,
)


def warm_up(now: datetime.datetime) -> None:
    """Do once with throw-away keys what is done for a pair: issue, read, revoke and seal."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority("warm-up", key)
    issuer = parse_certificate(authority.own_certificate(now))
    issued_by(issuer, issuer)
    issuing = IssuingKeys(authority, now)
    some_rsa = rsa.RSAPublicNumbers(RSA_EXPONENT, (1 << RSA_BITS) - 1).public_key()
    for ek in (some_rsa, key.public_key()):
        parse_certificate(issuing.ek_certificate(ek, now).der)
    issuing.ak_certificate(key.public_key(), RECORD, now)
    signed_by(parse_revocation_list(authority.revocation_list({b"\1": 0}, 1, now)), issuer)
    AESGCM(bytes(32)).encrypt(bytes(12), b"", None)
