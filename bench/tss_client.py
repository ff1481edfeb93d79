"""A program that uses a TPM through the system's TSS as hosts do: one mix, over any TCTI.

Commands are written and answers checked by hand, so that what is measured is the way to the TPM and
not ESAPI's own cryptography.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import struct
import time
from types import TracebackType
from typing import Any, Final, Self

os.environ.setdefault("TSS2_LOG", "all+none")

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Response, parse_response

GET_RANDOM, CREATE, LOAD, SIGN, UNSEAL = 0x17B, 0x153, 0x157, 0x15D, 0x15E  # TPM_CC (Part 2, 6.5)
POLICY_PCR, POLICY_GET_DIGEST = 0x17F, 0x189
HASH_SEQUENCE_START, SEQUENCE_UPDATE, SEQUENCE_COMPLETE = 0x186, 0x15C, 0x13E
ECC, KEYEDHASH, AES = 0x0023, 0x0008, 0x0006  # TPM_ALG_ID (Part 2, 6.3)
ECDSA, HMAC, CFB, P256 = 0x0018, 0x0005, 0x0043, 0x0003
HMAC_SESSION: Final = 0
CONTINUE: Final = 1  # TPMA_SESSION (Part 2, 8.4)
SIGNING: Final = 0x00040072  # TPMA_OBJECT: fixed here, own data, userWithAuth, sign
STORAGE: Final = 0x00030072  # fixed here, own data, userWithAuth, restricted, decrypt
NOTHING: Final = tpm.sized(b"")
PARENT: Final = (
    struct.pack(">HHI", ECC, tpm.SHA256, STORAGE)
    + NOTHING
    + struct.pack(">6H", AES, 128, CFB, tpm.ALG_NULL, P256, tpm.ALG_NULL)
    + NOTHING
    + NOTHING
)
ECDSA_KEY: Final = (
    struct.pack(">HHI", ECC, tpm.SHA256, SIGNING)
    + NOTHING
    + struct.pack(">5H", tpm.ALG_NULL, ECDSA, tpm.SHA256, P256, tpm.ALG_NULL)
    + NOTHING
    + NOTHING
)
HMAC_KEY: Final = (
    struct.pack(">HHI", KEYEDHASH, tpm.SHA256, SIGNING)
    + NOTHING
    + struct.pack(">HH", HMAC, tpm.SHA256)
    + NOTHING
)
SEALED: Final = struct.pack(
    ">HHI", KEYEDHASH, tpm.SHA256, 0x00000412
)  # fixed here, noDA, by policy
SECRET: Final = b"what is sealed"
DATA: Final = bytes(512)
REGISTERS: Final = (0, 1, 2, 3)
NO_TICKET: Final = struct.pack(">HIH", 0x8024, tpm.NULL, 0)  # TPMT_TK_HASHCHECK
DIGEST: Final = bytes(range(32))
SIGN_FIELDS: Final = tpm.sized(DIGEST) + tpm.ALG_NULL.to_bytes(2) + NO_TICKET
MIX: Final = {  # and how many commands each sends
    "get_random": 1,
    "pcr_read": 1,
    "sign_in_session": 1,
    "load_and_sign": 3,
    "unseal": 5,
    "hash_sequence": 4,
}


class TssClient:
    """A connection with a primary key, a key below it that stays loaded, and an HMAC session."""

    def __init__(self, tcti: str, options: str, key: bytes) -> None:
        self._tcti: Any = tss.TCTILdr(tcti, options)
        self._parent = self._run(tpm.create_primary(tpm.OWNER, PARENT), with_handle=True).handle
        blob, public = self._create(key)
        self._load = tpm.command(LOAD, (self._parent,), blob, [tpm.password()])
        self._key = self._run(self._load, with_handle=True).handle
        name = tpm.SHA256.to_bytes(2) + hashlib.sha256(public).digest()
        self._sign_digest = hashlib.sha256(SIGN.to_bytes(4) + name + SIGN_FIELDS).digest()
        policy = SEALED + tpm.sized(self._policy_digest()) + tpm.ALG_NULL.to_bytes(2) + NOTHING
        blob, _ = self._create(policy, SECRET)
        self._load_sealed = tpm.command(LOAD, (self._parent,), blob, [tpm.password()])
        self._session, self._nonce_tpm = self._start_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in (self._key, self._parent, self._session):
            self._run(tpm.flush_context(handle))
        self._tcti.finalize()

    def measure(self, rounds: int) -> float:
        """Run the mix so often; gives microseconds for each command."""
        steps = [getattr(self, name) for name in MIX]
        commands = rounds * sum(MIX.values())
        begun = time.perf_counter()
        for _ in range(rounds):
            for step in steps:
                step()
        return 1e6 * (time.perf_counter() - begun) / commands

    def get_random(self) -> None:
        """TPM2_GetRandom (Part 3, 16.1)."""
        self._run(tpm.command(GET_RANDOM, (), (16).to_bytes(2)))

    def pcr_read(self) -> None:
        """TPM2_PCR_Read of four registers."""
        self._run(tpm.pcr_read(REGISTERS))

    def load_and_sign(self) -> None:
        """Load a key, sign with it by its (empty) password, and flush it, as a tool does."""
        key = self._run(self._load, with_handle=True).handle
        self._run(tpm.command(SIGN, (key,), SIGN_FIELDS, [tpm.password()]))
        self._run(tpm.flush_context(key))

    def unseal(self) -> None:
        """Unseal what is sealed to registers, by a policy session that ends with it."""
        sealed = self._run(self._load_sealed, with_handle=True).handle
        session = self._policy_session()
        ends = session.to_bytes(4) + tpm.sized(b"") + b"\0" + tpm.sized(b"")
        self._run(tpm.command(UNSEAL, (sealed,), b"", [ends]))
        self._run(tpm.flush_context(sealed))

    def hash_sequence(self) -> None:
        """Hash what is too long for one command."""
        fields = NOTHING + tpm.SHA256.to_bytes(2)
        started = self._run(tpm.command(HASH_SEQUENCE_START, (), fields), with_handle=True)
        for _ in range(2):
            update = tpm.sized(DATA)
            self._run(tpm.command(SEQUENCE_UPDATE, (started.handle,), update, [tpm.password()]))
        end = NOTHING + tpm.NULL.to_bytes(4)
        self._run(tpm.command(SEQUENCE_COMPLETE, (started.handle,), end, [tpm.password()]))

    def sign_in_session(self) -> None:
        """TPM2_Sign authorized by HMAC (Part 1, 19.6): unbound, unsalted, no authValue: no key."""
        nonce = secrets.token_bytes(16)
        text = self._sign_digest + nonce + self._nonce_tpm + bytes([CONTINUE])
        code = hmac.digest(b"", text, "sha256")
        authorization = (
            self._session.to_bytes(4) + tpm.sized(nonce) + bytes([CONTINUE]) + tpm.sized(code)
        )
        command = tpm.command(SIGN, (self._key,), SIGN_FIELDS, [authorization])
        response = self._transceive(command)
        if parse_response(response).code:
            raise RuntimeError(f"sign in session: {response[6:10].hex()}")
        start = 14 + int.from_bytes(response[10:14])
        size = int.from_bytes(response[start : start + 2])
        self._nonce_tpm = response[start + 2 : start + 2 + size]

    def _policy_session(self) -> int:
        session = self._run(tpm.start_policy_session(), with_handle=True).handle
        fields = NOTHING + tpm.selection(REGISTERS)
        self._run(tpm.command(POLICY_PCR, (session,), fields))
        return session

    def _policy_digest(self) -> bytes:
        """Give the digest of a policy of registers, as they are."""
        session = self._policy_session()
        digest = self._run(tpm.command(POLICY_GET_DIGEST, (session,))).parameters[2:]
        self._run(tpm.flush_context(session))
        return digest

    def _create(self, public: bytes, secret: bytes = b"") -> tuple[bytes, bytes]:
        """Make an object; gives its private and public part (TPM2B), and its TPMT_PUBLIC."""
        made = self._run(_create(self._parent, public, secret)).parameters
        private_end = 2 + int.from_bytes(made[:2])
        public_end = private_end + 2 + int.from_bytes(made[private_end : private_end + 2])
        return made[:public_end], made[private_end + 2 : public_end]

    def _start_session(self) -> tuple[int, bytes]:
        fields = tpm.sized(secrets.token_bytes(16)) + tpm.sized(b"")
        fields += struct.pack(">BHH", HMAC_SESSION, tpm.ALG_NULL, tpm.SHA256)
        started = self._run(
            tpm.command(tpm.Code.START_AUTH_SESSION, (tpm.NULL, tpm.NULL), fields),
            with_handle=True,
        )
        return started.handle, started.parameters[2:]

    def _run(self, command: bytes, *, with_handle: bool = False) -> Response:
        while True:
            response = parse_response(self._transceive(command), with_handle=with_handle)
            if response.code == tpm.Rc.RETRY:
                continue
            if response.code:
                raise RuntimeError(f"{command[6:10].hex()}: {response.code:#x}")
            return response

    def _transceive(self, command: bytes) -> bytes:
        self._tcti.transmit(command)
        return bytes(self._tcti.receive(timeout=-1))


def _create(parent: int, public: bytes, secret: bytes) -> bytes:
    """TPM2_Create (Part 3, 12.1) of an object without authValue."""
    sensitive = tpm.sized(NOTHING + tpm.sized(secret))
    fields = sensitive + tpm.sized(public) + NOTHING + bytes(4)
    return tpm.command(CREATE, (parent,), fields, [tpm.password()])
