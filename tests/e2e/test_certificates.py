"""Certificates as a guest finds them: read with stock tools, judged by openssl."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from demo import attacks
from demo.good_run import GUEST
from demo.stage import Stage
from peers.console import Console
from tandem.evidence.certificates import parse_certificate

EK_CHAIN, AK_CERTIFICATE, AK_ISSUER = "0x01c00100", "0x01400102", "0x01400103"


@pytest.fixture(scope="module")
def console(stage: Stage) -> Iterator[Console]:
    """The console of a running guest, at its shell."""
    stage.tandem("guest", "start", GUEST)
    with stage.console(GUEST) as console:
        attacks.ready(console)
        console.run("export TPM2TOOLS_TCTI=device:/dev/tpmrm0")
        yield console
    stage.tandem("guest", "stop", GUEST, "--kill")


@pytest.fixture
def ca(stage: Stage, tmp_path: Path) -> Path:
    """The CA certificate of the guest's group."""
    stage.tandem("group", "ca", "default", "-o", tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def get(console: Console, path: str) -> bytes:
    """Read a file of the guest."""
    return base64.b64decode(console.run(f"base64 {path}"))


def read_index(console: Console, index: str) -> bytes:
    """Read an NV index by its own authorisation, which is empty."""
    console.run(f"tpm2_nvread -C {index} -o index {index}")
    return get(console, "index")


def certificates_in(data: bytes) -> list[bytes]:
    """Part DER certificates that follow each other; what is not written reads as zeros."""
    found = []
    while data[:2] == b"\x30\x82":
        size = 4 + int.from_bytes(data[2:4])
        found.append(data[:size])
        data = data[size:]
    return found


def openssl_verify(directory: Path, ca: Path, issuer: bytes, leaf: bytes) -> str:
    """Have openssl judge a certificate by the group's CA alone."""
    for name, der in (("issuer", issuer), ("leaf", leaf)):
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (directory / f"{name}.pem").write_bytes(pem)
    done = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-CAfile", ca),
            *("-untrusted", directory / "issuer.pem", directory / "leaf.pem"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_ek_certificates_lead_to_the_groups_ca(console: Console, ca: Path, tmp_path: Path) -> None:
    # Given a guest with stock tpm2-tools, and its group's CA certificate
    # When the EK certificates and their chain are read from the usual places
    console.run("tpm2_getekcertificate -o rsa.der -o ecc.der")
    eks = [get(console, f"{name}.der") for name in ("rsa", "ecc")]
    console.run(f"tpm2_nvread -o chain {EK_CHAIN}")
    issuer, root = certificates_in(get(console, "chain"))
    # Then the chain ends with the group's CA, and openssl verifies both
    assert root == x509.load_pem_x509_certificate(ca.read_bytes()).public_bytes(Encoding.DER)
    for ek in eks:
        assert "leaf.pem: OK" in openssl_verify(tmp_path, ca, issuer, ek)


def test_ek_certificates_are_for_the_eks_that_the_tpm_has(console: Console) -> None:
    # Given the EKs that stock tools make from the TCG's templates
    for algorithm, name in (("rsa", "rsa.der"), ("ecc", "ecc.der")):
        console.run(f"tpm2_createek -Q -G {algorithm} -u ek.pem -f pem -c ek.ctx")
        made = load_pem_public_key(get(console, "ek.pem"))
        # When the certificate's key is compared
        console.run("tpm2_getekcertificate -o rsa.der -o ecc.der")
        certified = parse_certificate(get(console, name)).parsed.public_key()
        # Then it is that key
        assert made == certified


def test_the_aks_certificate_is_read_without_any_software_of_ours(
    console: Console, ca: Path, tmp_path: Path
) -> None:
    # Given the persistent AK of the guest's vTPM
    console.run("tpm2_readpublic -Q -c 0x81810001 -f pem -o ak.pem")
    # When its certificate and the issuer's are read
    certificate = certificates_in(read_index(console, AK_CERTIFICATE))[0]
    issuer = certificates_in(read_index(console, AK_ISSUER))[0]
    # Then openssl verifies it up to the group's CA
    assert "leaf.pem: OK" in openssl_verify(tmp_path, ca, issuer, certificate)
    # And it is of that key, for a day, with the digest of the pair record and its counts
    parsed = parse_certificate(certificate)
    assert parsed.parsed.public_key() == load_pem_public_key(get(console, "ak.pem"))
    assert parsed.pair_record_digest is not None
    assert parsed.expected_counts is not None
    console.run("tpm2_readclock > clock")
    clock = get(console, "clock").decode()
    assert f"reset_count: {parsed.expected_counts[0]}" in clock
    assert f"restart_count: {parsed.expected_counts[1]}" in clock


def test_a_guest_cannot_write_its_aks_certificate(console: Console) -> None:
    # Given a forged certificate in the guest
    console.run("echo forged > forged")
    # When its root writes it where the AK's stands
    status = console.run(
        f"tpm2_nvwrite -Q -C o -i forged {AK_CERTIFICATE} 2>/dev/null; s1=$?; "
        f"tpm2_nvwrite -Q -C {AK_CERTIFICATE} -i forged {AK_CERTIFICATE} 2>/dev/null; echo $s1 $?"
    )
    # Then neither the owner nor the index's own authorisation lets it
    assert "0" not in status.split()
