"""Issuing keys: EK certificates as TCG's profile asks, AK certificates of one launch."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from tandem.errors import HostError
from tandem.evidence import oids
from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.evidence.pair_record import record_digest
from tandem.evidence.tpm_types import PublicKey, parse_public
from tandem.manager.issuing import IssuingKeys
from tandem.manager.warm_up import RECORD
from tests.unit.manager.software_host import NOW, ak, ecc_ek, rsa_ek, software_authority

MESSAGE = 4000  # of the Manager's, which takes both EK certificates and their chain
FIELDS = 100  # what else is in it
LONGEST = "a" * 63
HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def issuing() -> IssuingKeys:
    return IssuingKeys(software_authority(), NOW)


def key(public: bytes) -> PublicKey:
    return parse_public(public).key


@pytest.mark.parametrize(
    ("public", "usage"), [(rsa_ek(), "key_encipherment"), (ecc_ek(), "key_agreement")]
)
def test_an_ek_certificate_follows_the_profile(
    issuing: IssuingKeys, public: bytes, usage: str
) -> None:
    # Given an EK
    # When it is certified
    certificate = x509.load_der_x509_certificate(issuing.ek_certificate(key(public), NOW).der)
    # Then the certificate says of which TPM it is, and what the key is for
    found = certificate.extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName)
    [device] = names.value.get_values_for_type(x509.DirectoryName)
    assert [attribute.oid.dotted_string for attribute in device] == [
        oids.TPM_MANUFACTURER,
        oids.TPM_MODEL,
        oids.TPM_VERSION,
    ]
    key_usage = found.get_extension_for_class(x509.KeyUsage)
    assert key_usage.critical
    assert getattr(key_usage.value, usage)
    assert not key_usage.value.digital_signature
    usages = found.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(usages.value) == [ObjectIdentifier(oids.EK_CERTIFICATE)]
    constraints = found.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert found.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    # And its subject is empty, so the alternative name is critical
    assert (list(certificate.subject), names.critical) == ([], True)


def test_an_ek_certificate_names_the_specification(issuing: IssuingKeys) -> None:
    # Given an EK certificate
    certificate = x509.load_der_x509_certificate(issuing.ek_certificate(key(rsa_ek()), NOW).der)
    # When its subject directory attributes are read
    [found] = [
        each for each in certificate.extensions
        if each.oid.dotted_string == oids.SUBJECT_DIRECTORY_ATTRIBUTES
    ]  # fmt: skip
    assert isinstance(found.value, x509.UnrecognizedExtension)
    # Then they are what swtpm_cert 0.7.3 writes for the same libtpms: 2.0, level 0, revision 164
    assert found.value.value.hex() == "3019301706056781050210310e300c0c03322e30020100020200a4"
    assert not found.critical


def test_an_ak_certificate_is_of_one_launch_and_one_day(issuing: IssuingKeys) -> None:
    # Given an AK and a pair record
    record = replace(RECORD, vtpm="web-tpm", guest="web", reset_count=300, restart_count=1)
    # When it is certified
    issued = issuing.ak_certificate(key(ak()), record, NOW)
    # Then the verifier's own reader finds names, digest and expected counts
    certificate = parse_certificate(issued.der)
    assert certificate.pair_record_digest == record_digest(record.encode())
    assert certificate.expected_counts == (300, 1)
    assert "web-tpm" in certificate.subject
    assert certificate.usages == (oids.AK_CERTIFICATE,)
    # And it ends after a day, and is known by its serial number
    assert certificate.not_after == issued.end == NOW + datetime.timedelta(days=1)
    assert int.from_bytes(issued.serial) == certificate.serial


def test_each_kind_is_issued_by_the_key_for_it(issuing: IssuingKeys) -> None:
    # Given the certificates of both issuing keys
    endorsement = parse_certificate(issuing.endorsement)
    attestation = parse_certificate(issuing.attestation)
    # When each kind is issued
    eks = [issuing.ek_certificate(key(public), NOW).der for public in (rsa_ek(), ecc_ek())]
    certified = parse_certificate(issuing.ak_certificate(key(ak()), RECORD, NOW).der)
    # Then it carries the signature of its own issuer and not of the other
    for der in eks:
        assert issued_by(parse_certificate(der), endorsement)
        assert not issued_by(parse_certificate(der), attestation)
    assert issued_by(certified, attestation)
    assert not issued_by(certified, endorsement)


def test_certificates_fit_one_message() -> None:
    # Given the longest names that there are
    authority = software_authority(LONGEST)
    issuing = IssuingKeys(authority, NOW)
    record = replace(RECORD, vtpm=LONGEST, guest=LONGEST)
    # When everything is issued
    own = authority.own_certificate(NOW)
    eks = [issuing.ek_certificate(key(public), NOW).der for public in (rsa_ek(), ecc_ek())]
    certified = issuing.ak_certificate(key(ak()), record, NOW).der
    # Then EK certificates go with their chain into one message, and an AK's into one NV index
    assert sum(map(len, (*eks, issuing.endorsement, own))) <= MESSAGE - FIELDS
    assert len(certified) <= 1024


def test_a_certificate_is_valid_from_a_little_before_now(issuing: IssuingKeys) -> None:
    # Given a verifier whose clock is two minutes behind
    # When it looks at fresh certificates
    for der in (issuing.attestation, issuing.ak_certificate(key(ak()), RECORD, NOW).der):
        # Then they are valid already
        assert parse_certificate(der).not_before <= NOW - datetime.timedelta(minutes=2)


@pytest.mark.parametrize(
    ("later", "due", "usable"),
    [(0 * HOUR, False, True), (11 * HOUR, False, True), (12 * HOUR, True, True),
     (24 * HOUR, True, False), (-1 * HOUR, True, False)],
)  # fmt: skip
def test_issuing_keys_are_renewed_after_half_a_day_and_of_no_use_after_one(
    issuing: IssuingKeys, later: datetime.timedelta, due: bool, usable: bool
) -> None:
    # Given issuing keys, and a clock that went on, or was put back
    at = NOW + later
    # When they are looked at
    # Then they are due for renewal, and usable, as their age says
    assert (issuing.due(at), issuing.usable(at)) == (due, usable)


def test_an_old_issuing_key_signs_nothing(issuing: IssuingKeys) -> None:
    # Given issuing keys that nobody renewed for a day
    later = NOW + 24 * HOUR
    # When a certificate is asked for
    with pytest.raises(HostError) as of_ek:
        issuing.ek_certificate(key(rsa_ek()), later)
    with pytest.raises(HostError) as of_ak:
        issuing.ak_certificate(key(ak()), RECORD, later)
    # Then there is none
    assert {of_ek.value.code, of_ak.value.code} == {"TDM-ISSUING-KEY-EXPIRED"}
