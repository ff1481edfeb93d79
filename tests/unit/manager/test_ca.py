"""The group CA: its own certificate, those of its issuing keys, its revocation list."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tandem.evidence import oids
from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.evidence.revocation import parse_revocation_list, signed_by
from tandem.manager.ca import Authority
from tandem.manager.issuing import IssuingKeys
from tests.unit.manager.software_host import NOW, software_authority


@pytest.fixture
def authority() -> Authority:
    return software_authority()


def extensions(der: bytes) -> x509.Extensions:
    return x509.load_der_x509_certificate(der).extensions


def test_the_ca_certificate_says_that_one_level_is_below(authority: Authority) -> None:
    # Given the CA's own certificate
    found = extensions(authority.own_certificate(NOW))
    # When it is read
    constraints = found.get_extension_for_class(x509.BasicConstraints)
    usage = found.get_extension_for_class(x509.KeyUsage).value
    # Then it may certify issuing keys and sign lists, and nothing else
    assert (constraints.value.ca, constraints.value.path_length) == (True, 1)
    assert constraints.critical
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert found.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def test_an_issuing_key_certifies_leaves_of_one_kind_for_a_day(authority: Authority) -> None:
    # Given the issuing keys of a group
    issuing = IssuingKeys(authority, NOW)
    # When their certificates are read
    for der, usage in (
        (issuing.endorsement, oids.EK_CERTIFICATE),
        (issuing.attestation, oids.AK_CERTIFICATE),
    ):
        found = extensions(der)
        # Then each may certify leaves alone, of its kind, and its key is in use for a day
        constraints = found.get_extension_for_class(x509.BasicConstraints).value
        assert (constraints.ca, constraints.path_length) == (True, 0)
        assert not found.get_extension_for_class(x509.KeyUsage).value.crl_sign
        usages = found.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [each.dotted_string for each in usages] == [usage]
        period = found.get_extension_for_class(x509.PrivateKeyUsagePeriod).value
        assert period.not_after == (NOW + datetime.timedelta(days=1)).replace(tzinfo=None)


def test_issuing_certificates_are_valid_as_long_as_what_they_issue(authority: Authority) -> None:
    # Given the issuing keys of a group
    issuing = IssuingKeys(authority, NOW)
    # When their validity is read
    ends = [
        parse_certificate(der).not_after
        for der in (authority.own_certificate(NOW), issuing.endorsement, issuing.attestation)
    ]
    # Then CA and EKs have no end, as RFC 5280 writes it, and AKs two days
    no_end = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    assert ends == [no_end, no_end, NOW + datetime.timedelta(days=2)]


def test_issuing_keys_are_of_the_ca_and_no_other(authority: Authority) -> None:
    # Given a CA, its issuing keys, and another CA of the same name
    own = parse_certificate(authority.own_certificate(NOW))
    foreign = parse_certificate(software_authority().own_certificate(NOW))
    issuing = parse_certificate(IssuingKeys(authority, NOW).attestation)
    # When the issuer is looked for
    # Then it is the CA, and the key bears the CA's name (self-issued)
    assert issued_by(issuing, own)
    assert not issued_by(issuing, foreign)
    assert (issuing.subject, issuing.issuer) == (own.subject, own.subject)


def test_a_list_names_what_is_revoked(authority: Authority) -> None:
    # Given two serial numbers, one with a leading zero byte when it is written in 20
    serials = {b"\x12\x34": 1_700_000_000, b"\x7f" * 20: 1_700_000_001}
    # When the CA signs its list
    found = parse_revocation_list(authority.revocation_list(serials, 7, NOW))
    # Then the list has them with their times, and is the CA's
    assert found.revoked == {
        int.from_bytes(serial): datetime.datetime.fromtimestamp(at, datetime.UTC)
        for serial, at in serials.items()
    }
    assert found.number == 7
    assert found.issued_at <= NOW < found.next_due
    assert signed_by(found, parse_certificate(authority.own_certificate(NOW)))
    # And nobody else's of that name
    assert not signed_by(found, parse_certificate(software_authority().own_certificate(NOW)))


def test_an_issuing_key_signs_no_list(authority: Authority) -> None:
    # Given a list that an issuing key signed in the CA's name
    issuing = IssuingKeys(authority, NOW)
    forged = Authority("default", issuing._for_aks._key).revocation_list({}, 9, NOW)
    # When the CA's certificate is asked
    # Then it is not the CA's
    assert not signed_by(
        parse_revocation_list(forged), parse_certificate(authority.own_certificate(NOW))
    )


def test_a_key_in_a_tpm_gives_nothing_but_signatures(authority: Authority) -> None:
    # Given a CA's key
    signing = authority._key
    # When its private part is asked for
    # Then there is none to give
    with pytest.raises(TypeError):
        signing.private_numbers()
    assert isinstance(signing.public_key(), ec.EllipticCurvePublicKey)
