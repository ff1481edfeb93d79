"""R4 of the thread: a manipulated copy of a guest passes for the original, on the original's vTPM.

The guest measures itself: it extends a PCR with the digest of what it runs, and quotes with a key
of its vTPM.  The copy runs something else, extends the digest that the original would have, and
quotes with the same key.  Both sides of the comparison run these same commands in the guest.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers.console import Console

REGISTER: Final = (
    12  # 0 to 9 are the firmware's and boot loader's, 10 and 11 the kernel's and systemd's
)
KEY_HANDLE: Final = "0x81000010"
ORIGINAL_DIGEST: Final = hashlib.sha256(b"what the original guest runs").hexdigest()
MANIPULATED_WORD: Final = "tandem.manipulated=1"  # on the copy's kernel command line


@dataclass(frozen=True, kw_only=True)
class SelfMadeQuote:
    """What a guest that measures itself shows to a verifier."""

    attest: bytes
    signature: bytes
    registers: bytes
    command_line: str  # read from the guest; the quote does not cover it


def create_key(console: Console) -> bytes:
    """Make the original's quote key, persistent in its vTPM; give its public part (PEM)."""
    attributes = "restricted|sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    console.run(f"tpm2_createprimary -Q -C o -G ecc:ecdsa:null -c k.ctx -a '{attributes}'")
    console.run(f"tpm2_evictcontrol -Q -C o -c k.ctx {KEY_HANDLE}")
    console.run(f"tpm2_readpublic -Q -c {KEY_HANDLE} -f pem -o k.pem")
    return _fetch(console, "k.pem")


def measure_itself(console: Console, digest: str = ORIGINAL_DIGEST) -> None:
    """Extend what the guest says that it runs; the copy says the same as the original."""
    console.run(f"tpm2_pcrextend {REGISTER}:sha256={digest}")


def quote(console: Console, nonce: bytes) -> SelfMadeQuote:
    """Let the guest answer a verifier's nonce."""
    console.run(
        f"tpm2_quote -Q -c {KEY_HANDLE} -l sha256:{REGISTER} -q {nonce.hex()} "
        "-m q.msg -s q.sig -o q.pcrs"
    )
    return SelfMadeQuote(
        attest=_fetch(console, "q.msg"),
        signature=_fetch(console, "q.sig"),
        registers=_fetch(console, "q.pcrs"),
        command_line=console.run("cat /proc/cmdline").strip(),
    )


def verifier_accepts(quoted: SelfMadeQuote, key: bytes, nonce: bytes, directory: Path) -> bool:
    """Judge as verifiers of plain vTPMs do: stock tpm2_checkquote, and the expected register."""
    files = {"key": key, "msg": quoted.attest, "sig": quoted.signature, "pcrs": quoted.registers}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    checked = subprocess.run(
        ["tpm2_checkquote", *("-u", "key", "-m", "msg", "-s", "sig", "-f", "pcrs"),
         *("-g", "sha256", "-q", nonce.hex())],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    expected = hashlib.sha256(bytes(32) + bytes.fromhex(ORIGINAL_DIGEST)).hexdigest()
    return checked.returncode == 0 and expected in checked.stdout.lower()


def _fetch(console: Console, path: str) -> bytes:
    return base64.b64decode(console.run(f"base64 {path}"))
