"""Enrolment: a credential for one TPM and one Name, and an anchor only after its proof."""

from __future__ import annotations

import hashlib
import secrets
import struct

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from tandem.appraisal.anchor import Standing, anchor_of, open_anchor, seal_anchor, standing_of
from tandem.appraisal.enrolment import (
    check_proof,
    kdfa,
    make_credential,
    parse_challenge,
    parse_proof,
    refuse_weak_ak,
    write_challenge,
    write_proof,
)
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.certificates import parse_certificate
from tandem.evidence.envelope import PrivateKey
from tandem.evidence.host_export import HostExport, parse_host_export, write_host_export
from tandem.evidence.tpm_types import parse_public
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tests.unit.appraisal.forge import Forge, new_key

EK_ATTRIBUTES = 0x000300B2
EK_KEY = rsa.generate_private_key(65537, 2048)


def ek_public(key: rsa.RSAPrivateKey = EK_KEY) -> bytes:
    modulus = key.public_key().public_numbers().n.to_bytes(256)
    head = struct.pack(">HHIH", 1, 0x000B, EK_ATTRIBUTES, 0)
    return head + struct.pack(">HHHHHIH", 6, 128, 0x43, 0x10, 2048, 0, 256) + modulus


def export(**changes: object) -> HostExport:
    forge = Forge()
    fields: dict[str, object] = {
        "ptpm": "embedded",
        "hardware_root": False,
        "ek": ek_public(),
        "ek_certificate": b"",
        "ak": vtpm_ak_public(forge.host_ak.public_key()),
        "authorities": {"default": forge.ca_certificate()},
        "pcrs": {8: bytes(32)},
    }
    return parse_host_export(write_host_export(**(fields | changes)))  # type: ignore[arg-type]


def test_the_holder_of_ek_and_name_recovers_the_credential() -> None:
    # Given a challenge for an EK and the Name of an AK
    ek, name, secret = parse_public(ek_public()), b"\x00\x0b" + bytes(32), secrets.token_bytes(32)
    challenge = make_credential(ek, name, secret, secrets.token_bytes)

    # When the EK's owner does what a TPM does
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=b"IDENTITY\0")
    seed = EK_KEY.decrypt(challenge.encrypted_secret, oaep)
    key = kdfa("sha256", seed, b"STORAGE", name, b"", 128)
    decryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor()
    clear = decryptor.update(challenge.credential_blob[34:]) + decryptor.finalize()

    # Then the credential is there, with its size
    assert clear == b"\x00\x20" + secret


def test_challenge_and_proof_are_read_back() -> None:
    # Given a challenge and a credential
    ek, secret = parse_public(ek_public()), secrets.token_bytes(32)
    challenge = make_credential(ek, b"\x00\x0b" + bytes(32), secret, secrets.token_bytes)

    # When they cross as documents
    # Then they are the same
    assert parse_challenge(write_challenge(challenge)) == challenge
    assert parse_proof(write_proof(secret)) == secret
    check_proof(secret, write_proof(secret))


def test_a_wrong_proof_is_refused() -> None:
    # Given a credential and the proof of another
    # When the proof is checked
    # Then a rule refuses it
    with pytest.raises(Refused) as caught:
        check_proof(bytes(32), write_proof(b"\x01" * 32))
    assert caught.value.code == "TDM-ENROL-NOT-PROVEN"


def test_a_signing_key_is_no_ek_and_a_storage_key_no_ak() -> None:
    # Given an AK and an EK, exchanged
    ak = parse_public(vtpm_ak_public(new_key().public_key()))
    ek = parse_public(ek_public())

    # When each is used as the other
    # Then each is refused
    with pytest.raises(Refused):
        make_credential(ak, ak.name, bytes(32), secrets.token_bytes)
    with pytest.raises(UntrustedInput):
        refuse_weak_ak(ek)


def test_an_anchor_is_opened_by_its_key_alone() -> None:
    # Given the anchor of an enrolled host
    key, host = PrivateKey.generate(), export()
    sealed = seal_anchor(anchor_of(host, [], 7), key)

    # When it is opened
    anchor = open_anchor(sealed, key.public_key())

    # Then it holds the host's keys, and another key does not open it
    assert (anchor.ak, anchor.ek, anchor.enrolled_at) == (host.ak, host.ek, 7)
    assert anchor.standing is Standing.EMBEDDED
    with pytest.raises(Refused):
        open_anchor(sealed, PrivateKey.generate().public_key())


def test_a_host_is_hardware_by_its_certificate_not_by_its_word() -> None:
    # Given a host that says hardware: without certificate, with one, and with another EK's
    forge = Forge()
    root = parse_certificate(forge.ca_certificate())
    own = parse_public(vtpm_ak_public(forge.vtpm_ak.public_key()))
    certified = forge.answer().ak_certificate  # of that key, issued by the root
    claims = {"hardware_root": True, "ptpm": "/dev/tpm0"}

    # When its standing is judged
    bare = standing_of(export(**claims), [root])
    proven = standing_of(export(**claims, ek=own.encoded, ek_certificate=certified), [root])
    strange = standing_of(export(**claims, ek_certificate=certified), [root])
    rootless = standing_of(export(**claims, ek=own.encoded, ek_certificate=certified), [])

    # Then only the certificate of its own EK by a known root makes it hardware
    assert proven is Standing.VENDOR
    assert {bare, strange, rootless} == {Standing.UNPROVEN}


def test_a_key_of_another_name_is_another_host() -> None:
    # Given two AKs
    names = {parse_public(vtpm_ak_public(new_key().public_key())).name for _ in range(2)}

    # When their Names are compared
    # Then they differ, and are SHA-256 with its algorithm in front
    assert len(names) == 2
    assert all(name[:2] == b"\x00\x0b" and len(name) == 2 + hashlib.sha256().digest_size
               for name in names)  # fmt: skip
