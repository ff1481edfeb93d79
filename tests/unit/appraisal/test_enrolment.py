"""Enrolment: a credential for one TPM and one Name, and an anchor only after its proof."""

from __future__ import annotations

import hashlib
import secrets
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from tandem.appraisal.anchor import (
    Standing,
    anchor_of,
    open_anchor,
    quoted_state,
    seal_anchor,
    standing_of,
)
from tandem.appraisal.enrolment import (
    Challenge,
    check_proof,
    credential_for,
    kdfa,
    make_credential,
    parse_challenge,
    refuse_weak_ak,
    write_challenge,
)
from tandem.cli.main import main
from tandem.errors import HostError, Refused, UntrustedInput
from tandem.evidence.enrolment import Proof, enrolment_data, parse_proof, write_proof
from tandem.evidence.envelope import PrivateKey
from tandem.evidence.host_export import HostExport, parse_host_export, write_host_export
from tandem.evidence.tpm_types import parse_public
from tandem.evidence.vtpm_ak import TPM_RH_ENDORSEMENT, qualified_name, vtpm_ak_public
from tests.unit.appraisal.certificate_maker import NOW, Maker, ek_maker
from tests.unit.appraisal.forge import Forge, attest, new_key, sign

EK_ATTRIBUTES = 0x000300B2
EK_KEY = rsa.generate_private_key(65537, 2048)
OTHER_EK_KEY = rsa.generate_private_key(65537, 2048)


def ek_public(key: rsa.RSAPrivateKey = EK_KEY) -> bytes:
    modulus = key.public_key().public_numbers().n.to_bytes(256)
    head = struct.pack(">HHIH", 1, 0x000B, EK_ATTRIBUTES, 0)
    return head + struct.pack(">HHHHHIH", 6, 128, 0x43, 0x10, 2048, 0, 256) + modulus


HOST_AK = new_key()
CREDENTIAL = bytes(range(32))
PCRS = {8: b"\x08" * 32, 9: b"\x09" * 32}


def exported(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "ptpm": "embedded",
        "hardware_root": False,
        "ek": ek_public(),
        "ek_certificate": b"",
        "ek_chain": (),
        "ak": vtpm_ak_public(HOST_AK.public_key()),
        "authorities": {"default": Forge().ca_certificate()},
        "epoch": 2,
    }
    return write_host_export(**(fields | changes))  # type: ignore[arg-type]


def export(**changes: object) -> HostExport:
    return parse_host_export(exported(**changes))


def proof_for(data: bytes, credential: bytes = CREDENTIAL, **changes: object) -> Proof:
    """What the host answers whose export is given."""
    name = parse_public(vtpm_ak_public(HOST_AK.public_key())).name
    signer = qualified_name(TPM_RH_ENDORSEMENT, name)
    quote = attest(signer, enrolment_data(credential, data), PCRS, (4, 1), time=77)
    fields: dict[str, object] = {
        "credential": credential,
        "attest": quote,
        "signature": sign(HOST_AK, quote),
        "pcrs": PCRS,
    }
    return Proof(**(fields | changes))  # type: ignore[arg-type]


def activated(challenge: Challenge, name: bytes) -> bytes:
    """What the EK's owner finds in a challenge by doing what a TPM does."""
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=b"IDENTITY\0")
    seed = EK_KEY.decrypt(challenge.encrypted_secret, oaep)
    key = kdfa("sha256", seed, b"STORAGE", name, b"", 128)
    decryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor()
    return decryptor.update(challenge.credential_blob[34:]) + decryptor.finalize()


def test_the_holder_of_ek_and_name_recovers_the_credential() -> None:
    # Given a challenge for an EK and the Name of an AK
    ek, name, secret = parse_public(ek_public()), b"\x00\x0b" + bytes(32), secrets.token_bytes(32)
    challenge = make_credential(ek, name, secret, secrets.token_bytes)

    # When the EK's owner does what a TPM does
    clear = activated(challenge, name)

    # Then the credential is there, with its size
    assert clear == b"\x00\x20" + secret


def test_challenge_and_proof_are_read_back() -> None:
    # Given a challenge and a credential
    ek, secret = parse_public(ek_public()), secrets.token_bytes(32)
    challenge = make_credential(ek, b"\x00\x0b" + bytes(32), secret, secrets.token_bytes)

    # When they cross as documents
    # Then they are the same
    assert parse_challenge(write_challenge(challenge)) == challenge
    proof = proof_for(exported())
    assert parse_proof(write_proof(proof)) == proof


def test_a_proof_gives_the_state_that_the_host_quoted_for_this_verifier() -> None:
    # Given a host's export, and its answer to a credential
    data = exported()

    # When the proof is checked
    quote = check_proof(parse_host_export(data), data, CREDENTIAL, proof_for(data))

    # Then the quote's clock and counts are the host's
    assert (quote.clock, quote.reset_count, quote.restart_count) == (77, 4, 1)


AUTHORITIES = {"default": Forge().ca_certificate()}
SAME = exported(authorities=AUTHORITIES)
OTHER_EXPORT = exported(authorities={"default": Forge().ca_certificate()})


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (proof_for(SAME, b"\x01" * 32), "did not recover the credential"),
        (proof_for(OTHER_EXPORT), "not for this credential and this export"),
        (proof_for(SAME, attest=b"\xff" * 80), "magic"),
        (proof_for(SAME, signature=sign(new_key(), b"")), "signature is not one of AK"),
        (proof_for(SAME, pcrs={8: bytes(32), 9: bytes(32)}), "the values have digest"),
        (proof_for(SAME, pcrs={8: bytes(32)}), "not over SHA-256 PCR 8"),
    ],
)
def test_a_wrong_proof_is_refused_by_name(proof: Proof, words: str) -> None:
    # Given a proof with another credential, export, quote, signer, or other values
    data = exported(authorities=AUTHORITIES)

    # When it is checked
    with pytest.raises((Refused, UntrustedInput)) as caught:
        check_proof(parse_host_export(data), data, CREDENTIAL, proof)

    # Then the reason is that one
    assert words in caught.value.problem


@pytest.mark.parametrize(("changes", "status"), [({}, 0), ({"ek": ek_public(OTHER_EK_KEY)}, 5)])
def test_a_recovered_credential_enrols_the_export_of_its_challenge_alone(
    tmp_path: Path, changes: dict[str, object], status: int
) -> None:
    # Given a host that recovered the credential of a challenge for its own EK
    asked = exported(authorities=AUTHORITIES)
    files = {name: str(tmp_path / name) for name in ("asked", "given", "key", "s", "c", "p", "a")}
    Path(files["asked"]).write_bytes(asked)
    challenge = ["challenge", files["asked"], "--secret", files["s"], "-o", files["c"]]
    assert main(["verifier", "keygen", "-o", files["key"]]) == 0
    assert main(["verifier", *challenge]) == 0
    name = parse_host_export(asked).ak.name
    credential = activated(parse_challenge(Path(files["c"]).read_bytes()), name)[2:]

    # When it answers with an AK of its own making, beside that EK or beside somebody else's
    given = exported(authorities=AUTHORITIES, **changes)
    Path(files["given"]).write_bytes(given)
    Path(files["p"]).write_bytes(write_proof(proof_for(given, credential)))
    proven = ["--proof", files["p"], "--secret", files["s"], "-o", files["a"]]
    done = main(["verifier", "enroll", files["given"], "--key", files["key"], *proven])

    # Then only the EK that was asked is enrolled
    assert done == status


@pytest.mark.parametrize(
    ("via", "words"),
    [
        ("cat /dev/zero", "more than 16384 bytes"),
        ("false", "exit status 1"),
        ("sleep 60", "timed out"),
        ("/nowhere", "No such file"),
    ],
)
def test_a_host_that_does_not_answer_as_asked_is_cut_off(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    via: str,
    words: str,
) -> None:
    # Given a host that answers without an end, or not at all, and a verifier of little patience
    monkeypatch.setattr("tandem.cli.verifier.ACTIVATE_SECONDS", 0.5 if "sleep" in via else 60)
    (tmp_path / "export").write_bytes(exported())
    export, key, anchor = (str(tmp_path / each) for each in ("export", "key", "anchor"))
    assert main(["verifier", "keygen", "-o", key]) == 0

    # When it is to be enrolled
    status = main(["verifier", "enroll", export, "--key", key, "-o", anchor, "--via", via])

    # Then what it did is named
    assert status == HostError.exit_status
    assert words in capsys.readouterr().err


def test_a_cut_secret_proves_nothing() -> None:
    # Given a secret of which nothing was kept
    # When the credential of an export is made from it
    # Then it is refused: everybody could make that one
    with pytest.raises(Refused):
        credential_for(b"", exported())


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
    key, data = PrivateKey.generate(), exported()
    host = parse_host_export(data)
    quote = check_proof(host, data, CREDENTIAL, proof_for(data))
    state = quoted_state(quote, PCRS)
    sealed = seal_anchor(anchor_of(host, Standing.EMBEDDED, state, 7), key)

    # When it is opened
    anchor = open_anchor(sealed, key.public_key())

    # Then it holds the host's keys and proven state, and another key does not open it
    assert (anchor.ak, anchor.ek, anchor.enrolled_at) == (host.ak, host.ek, 7)
    assert (anchor.state, anchor.epoch, anchor.tpm) == (state, 2, None)
    assert anchor.standing is Standing.EMBEDDED
    with pytest.raises(Refused):
        open_anchor(sealed, PrivateKey.generate().public_key())


ROOT, MIDDLE = Maker("vendor"), Maker("model")
EK = ek_maker()
CERTIFIED = {
    "hardware_root": True,
    "ptpm": "/dev/tpm0",
    "ek": vtpm_ak_public(EK.key.public_key()),  # an EC key is what matters here
    "ek_certificate": EK.issued_by(MIDDLE).der,
}
CHAIN = {"ek_chain": (MIDDLE.issued_by(ROOT).der,)}


def test_a_host_is_hardware_by_its_certificate_not_by_its_word() -> None:
    # Given a host whose TPM brings its EK certificate, and the CA between
    host, root = export(**CERTIFIED, **CHAIN), ROOT.self_issued()

    # When its standing is judged with the vendor's root, with both CAs given, and without
    brought = standing_of(host, [], [root], NOW)
    given = standing_of(export(**CERTIFIED), [MIDDLE.issued_by(ROOT)], [root], NOW)
    rootless = standing_of(host, [], [], NOW)

    # Then only the way to a root makes it hardware
    assert {brought, given} == {Standing.VENDOR}
    assert rootless is Standing.UNPROVEN
    assert standing_of(export(), [], [], NOW) is Standing.EMBEDDED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (CERTIFIED, "no certificate of 'CN=model' leads on to a given root"),
        (CERTIFIED | {"ek_certificate": b""}, "brings no EK certificate"),
        (CERTIFIED | CHAIN | {"ek": ek_public()}, "is for another key"),
        (CERTIFIED | CHAIN | {"hardware_root": False}, "says itself that its TPM is software"),
    ],
)
def test_a_host_that_no_given_root_vouches_for_is_refused_by_name(
    changes: dict[str, object], words: str
) -> None:
    # Given a host whose EK does not lead to the root that the verifier gives
    # When its standing is judged
    with pytest.raises(Refused) as caught:
        standing_of(export(**changes), [], [ROOT.self_issued()], NOW)

    # Then the refusal says what is wrong
    assert caught.value.code == "TDM-ENROL-EK-NOT-CERTIFIED"
    assert words in caught.value.problem


def test_a_key_of_another_name_is_another_host() -> None:
    # Given two AKs
    names = {parse_public(vtpm_ak_public(new_key().public_key())).name for _ in range(2)}

    # When their Names are compared
    # Then they differ, and are SHA-256 with its algorithm in front
    assert len(names) == 2
    assert all(name[:2] == b"\x00\x0b" and len(name) == 2 + hashlib.sha256().digest_size
               for name in names)  # fmt: skip
