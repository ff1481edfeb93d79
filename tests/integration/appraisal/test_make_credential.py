"""MakeCredential in Python against ActivateCredential in a TPM that others wrote."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.appraisal.enrolment import Challenge, make_credential
from tandem.evidence.tpm_types import Public, parse_public

START_SECONDS = 10


class SoftwareTpm:
    """A swtpm reached by tpm2-tools, one directory for everything."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *argv: str) -> None:
        tcti = f"swtpm:path={self.directory / 'sock'}"
        environment = {**os.environ, "TPM2TOOLS_TCTI": tcti}
        subprocess.run(
            argv, cwd=self.directory, env=environment, check=True, capture_output=True, timeout=60
        )
        if argv[0] in ("tpm2_createek", "tpm2_createak", "tpm2_activatecredential"):
            flush = ["tpm2_flushcontext", "-t"]
            subprocess.run(flush, env=environment, check=True, capture_output=True, timeout=60)

    def public(self, name: str) -> Public:
        content = (self.directory / name).read_bytes()
        return parse_public(content[2:])  # a TPM2B_PUBLIC


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}"]
    argv += ["--server", f"type=unixio,path={tmp_path / 'sock'}"]
    argv += ["--ctrl", f"type=unixio,path={tmp_path / 'sock.ctrl'}", "--flags", "startup-clear"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + START_SECONDS
        while not (tmp_path / "sock").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield SoftwareTpm(tmp_path)
        process.terminate()


def credential_file(challenge: Challenge) -> bytes:
    """The file of tpm2_makecredential: magic, version, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET."""
    parts = (challenge.credential_blob, challenge.encrypted_secret)
    sized = b"".join(len(part).to_bytes(2) + part for part in parts)
    return bytes.fromhex("badcc0de00000001") + sized


@pytest.mark.parametrize("algorithm", ["rsa", "ecc"])
def test_a_tpm_recovers_what_make_credential_protects(tpm: SoftwareTpm, algorithm: str) -> None:
    # Given a TPM with an EK and an AK
    tpm.run("tpm2_createek", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub")
    ak = ["-c", "ak.ctx", "-u", "ak.pub", "-n", "ak.name"]
    tpm.run("tpm2_createak", "-C", "ek.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa", *ak)
    ek_public, ak_public = tpm.public("ek.pub"), tpm.public("ak.pub")

    # When a credential is made for them and that TPM activates it
    secret = secrets.token_bytes(32)
    challenge = make_credential(ek_public, ak_public.name, secret, secrets.token_bytes)
    (tpm.directory / "challenge").write_bytes(credential_file(challenge))
    tpm.run("tpm2_startauthsession", "--policy-session", "-S", "session")
    tpm.run("tpm2_policysecret", "-S", "session", "-c", "e")
    activate = ["-c", "ak.ctx", "-C", "ek.ctx", "-P", "session:session"]
    tpm.run("tpm2_activatecredential", *activate, "-i", "challenge", "-o", "recovered")

    # Then the TPM has the secret, the Names agree, and the keys are what they should be
    assert (tpm.directory / "recovered").read_bytes() == secret
    assert (tpm.directory / "ak.name").read_bytes() == ak_public.name
    assert ek_public.is_ek
    assert ak_public.is_ak
