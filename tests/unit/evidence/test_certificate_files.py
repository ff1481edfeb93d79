"""Files of certificates: as many are read as any chain needs, and no more."""

from __future__ import annotations

from tandem.evidence.certificate_files import MAX_CERTIFICATES, der_parts
from tests.unit.appraisal.certificate_maker import Maker


def test_certificates_are_parted_where_each_ends() -> None:
    # Given two certificates, and what a TPM's NV index is padded with
    ders = [Maker(name).self_issued().der for name in ("one", "two")]
    # When they are parted
    # Then they are as they were
    assert der_parts(b"".join(ders) + b"\xff" * 8) == tuple(ders)


def test_a_file_of_nothing_but_heads_costs_little() -> None:
    # Given a megabyte of certificates without content
    data = b"\x30\x82\0\0" * (1 << 18)
    # When they are parted
    # Then a file's limit holds
    assert len(der_parts(data)) == MAX_CERTIFICATES
