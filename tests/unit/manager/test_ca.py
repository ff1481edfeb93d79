"""Certificates: what the TCG's profile asks, in few bytes, signed by the CA."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ObjectIdentifier

from tandem.evidence import oids
from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.evidence.tpm_types import PublicKey, parse_public
from tandem.manager.ca import Authority
from tests.unit.manager.software_host import NOW, ak, ecc_ek, rsa_ek, software_authority

MAX_CERTIFICATE = 1200  # three of them go into one message of the Manager's
LONGEST = "a" * 63


@pytest.fixture
def authority() -> Authority:
    return software_authority()


def key(public: bytes) -> PublicKey:
    return parse_public(public).key


@pytest.mark.parametrize(
    ("public", "usage"), [(rsa_ek(), "key_encipherment"), (ecc_ek(), "key_agreement")]
)
def test_an_ek_certificate_follows_the_profile(
    authority: Authority, public: bytes, usage: str
) -> None:
    # Given an EK
    # When it is certified
    der = authority.ek_certificate(key(public), NOW)
    # Then the certificate says of which TPM it is, and what the key is for
    certificate = x509.load_der_x509_certificate(der)
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    [device] = names.value.get_values_for_type(x509.DirectoryName)
    assert [attribute.oid.dotted_string for attribute in device] == [
        oids.TPM_MANUFACTURER,
        oids.TPM_MODEL,
        oids.TPM_VERSION,
    ]
    key_usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert getattr(key_usage, usage)
    assert not key_usage.digital_signature
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ObjectIdentifier(oids.EK_CERTIFICATE)
    ]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    # And its subject is empty, so the alternative name is critical
    assert (list(certificate.subject), names.critical) == ([], True)


def test_an_ak_certificate_names_the_pair(authority: Authority) -> None:
    # Given an AK and the digest of a pair record
    # When it is certified
    der = authority.ak_certificate(key(ak()), b"d" * 32, vtpm="web-tpm", guest="web", now=NOW)
    # Then the verifier's own reader finds both names and the digest
    certificate = parse_certificate(der)
    assert certificate.pair_record_digest == b"d" * 32
    assert "web-tpm" in certificate.subject
    parsed = x509.load_der_x509_certificate(der)
    usages = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ObjectIdentifier(oids.AK_CERTIFICATE)]


def test_every_certificate_is_issued_by_the_ca(authority: Authority) -> None:
    # Given the CA's own certificate
    own = authority.own_certificate(NOW)
    # When it issues each kind
    issued = [
        own,
        authority.ek_certificate(key(rsa_ek()), NOW),
        authority.ek_certificate(key(ecc_ek()), NOW),
        authority.ak_certificate(key(ak()), bytes(32), vtpm="web", guest="web", now=NOW),
    ]
    # Then each names it and carries its signature, and another CA's does not
    foreign = parse_certificate(software_authority().own_certificate(NOW))
    for der in issued:
        assert issued_by(parse_certificate(der), parse_certificate(own))
        assert not issued_by(parse_certificate(der), foreign)


def test_certificates_stay_small(authority: Authority) -> None:
    # Given the longest names that there are
    longest = software_authority(LONGEST)
    # When each kind is issued
    issued = [
        longest.own_certificate(NOW),
        longest.ek_certificate(key(rsa_ek()), NOW),
        longest.ek_certificate(key(ecc_ek()), NOW),
        longest.ak_certificate(key(ak()), bytes(32), vtpm=LONGEST, guest=LONGEST, now=NOW),
    ]
    # Then none is larger than the Manager's messages and NV indices take
    assert max(map(len, issued)) <= MAX_CERTIFICATE


def test_a_certificate_is_valid_from_a_little_before_now(authority: Authority) -> None:
    # Given a verifier whose clock is two minutes behind
    # When it looks at a fresh certificate
    certificate = x509.load_der_x509_certificate(authority.own_certificate(NOW))
    # Then it is valid already
    assert certificate.not_valid_before_utc <= NOW - datetime.timedelta(minutes=2)
    assert certificate.not_valid_after_utc > NOW + datetime.timedelta(days=3000)


def test_the_ca_certificate_says_that_it_issues_to_leaves_only(authority: Authority) -> None:
    # Given the CA's own certificate
    extensions = x509.load_der_x509_certificate(authority.own_certificate(NOW)).extensions
    # When it is read
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    # Then it may sign certificates, and no further CA
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert (constraints.critical, usage.key_cert_sign, usage.digital_signature) == (
        True,
        True,
        False,
    )
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def test_a_key_in_a_tpm_gives_nothing_but_signatures(authority: Authority) -> None:
    # Given a CA's key
    signing = authority._key
    # When its private part is asked for
    # Then there is none to give
    with pytest.raises(TypeError):
        signing.private_numbers()
    assert isinstance(signing.public_key(), ec.EllipticCurvePublicKey)
