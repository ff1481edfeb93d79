"""A real TPM behind gate and broker in one process, and the commands that tests send."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tandem.broker.broker import Broker
from tandem.broker.client import Client
from tandem.broker.connection import Connection
from tandem.manager.gate import Gate
from tandem.wire.broker_rights import Rights, RightsFile
from tandem.wire.nv_wear import WriteBudget
from tandem.wire.tpm_commands import NULL, OWNER, PASSWORD, command, get_capability, sized
from tandem.wire.tpm_requests import code_of
from tandem.wire.tpm_table import TABLE

RETRY: Final = 0x922
ROOT_NAME: Final = b"\x00\x0b" + b"r" * 32  # of a Manager's root that this TPM does not have
NO_AUTH: Final = PASSWORD.to_bytes(4) + bytes(2) + b"\x01" + bytes(2)
CODES: Final = {row.name: row.code for row in TABLE.values()}
ECC_STORAGE: Final = bytes.fromhex("0023000b00030472000000060080004300100003001000000000")
ECC_SIGNING: Final = bytes.fromhex("0023000b0004047200000010" + "0018000b" + "0003001000000000")
NO_DA: Final = 0x400


class SoftwareTpm:
    """swtpm over a socket pair, which nobody else reaches."""

    def __init__(self, directory: Path) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs, (directory / "swtpm.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("swtpm", "socket", "--tpm2", "--fd", str(theirs.fileno())),
                    *("--tpmstate", f"dir={directory}", "--terminate"),
                    *("--flags", "not-need-init,startup-clear"),
                ],
                pass_fds=[theirs.fileno()],
                stderr=log,
            )
        self.asked: Counter[int] = Counter()

    def transceive(self, sent: bytes) -> bytes:
        """Do a command, again where the TPM asks for that, as the Manager's way to it does."""
        self.asked[code_of(sent)] += 1
        while True:
            self._ours.sendall(sent)
            answer = b""
            while len(answer) < 10 or len(answer) < int.from_bytes(answer[2:6]):
                answer += self._ours.recv(4096)
            if code_of(answer) != RETRY:
                return answer

    def handles(self, first: int) -> list[int]:
        """List what the TPM holds, as only its owner sees it."""
        answer = self.transceive(get_capability(1, first, 254))
        count = int.from_bytes(answer[15:19])
        return [int.from_bytes(answer[19 + 4 * at : 23 + 4 * at]) for at in range(count)]

    def close(self) -> None:
        self._ours.close()
        self._process.kill()
        self._process.wait()


class GatedTpm:
    """Gate and broker before a software TPM, with a clock that a test moves."""

    def __init__(self, tpm: SoftwareTpm, rights: RightsFile) -> None:
        self.tpm = tpm
        self.rights = rights
        self.time = 1000.0
        union = rights.union()
        self.gate = Gate(
            tpm.transceive,
            rights=union,
            root_name=ROOT_NAME,
            writes=WriteBudget(union.nv_writes, self.time),
            now=lambda: self.time,
        )
        self.broker = Broker(self.gate.execute, now=lambda: self.time)

    def connect(self, uid: int = 0) -> Connection:
        rights = self.rights.of(uid)
        assert rights is not None
        return self.broker.connect(Client(uid=uid, rights=rights))


def everybody(rights: Rights) -> RightsFile:
    """Give all users the same rights."""
    return RightsFile(default=rights, users={})


@contextlib.contextmanager
def software_tpm(directory: Path) -> Iterator[SoftwareTpm]:
    tpm = SoftwareTpm(directory)
    try:
        yield tpm
    finally:
        tpm.close()


def ask(
    name: str, *handles: int, parameters: bytes = b"", auths: Sequence[bytes] | None = None
) -> bytes:
    """Write a command of the table, authorized by empty passwords where it has to be."""
    row = TABLE[CODES[name]]
    if auths is None:
        auths = [NO_AUTH] * row.authorizations
    return command(row.code, handles, parameters, auths)


def handle_of(answer: bytes) -> int:
    assert code_of(answer) == 0, hex(code_of(answer))
    return int.from_bytes(answer[10:14])


def body(answer: bytes) -> bytes:
    """Give the parameters of a successful answer to a command with sessions and no handle."""
    assert code_of(answer) == 0, hex(code_of(answer))
    size = int.from_bytes(answer[10:14])
    return answer[14 : 14 + size]


def load_hmac_key(key: bytes, auth: bytes = b"", attributes: int = NO_DA) -> bytes:
    """TPM2_LoadExternal of an HMAC key."""
    seed = bytes(32)
    sensitive = b"\x00\x08" + sized(auth) + sized(seed) + sized(key)
    public = b"\x00\x08\x00\x0b" + (0x40040 | attributes).to_bytes(4) + sized(b"")
    public += b"\x00\x05\x00\x0b" + sized(hashlib.sha256(seed + key).digest())
    return ask("LoadExternal", parameters=sized(sensitive) + sized(public) + NULL.to_bytes(4))


def hmac_of(key: int, data: bytes, auth: bytes = b"") -> bytes:
    password = PASSWORD.to_bytes(4) + bytes(2) + b"\x01" + sized(auth)
    return ask("HMAC", key, parameters=sized(data) + b"\x00\x10", auths=[password])


def create_primary(public: bytes = ECC_STORAGE, hierarchy: int = OWNER) -> bytes:
    fields = sized(bytes(4)) + sized(public) + sized(b"") + bytes(4)
    return ask("CreatePrimary", hierarchy, parameters=fields)


def start_policy_session(kind: int = 1) -> bytes:
    fields = sized(bytes(16)) + sized(b"") + bytes([kind]) + b"\x00\x10\x00\x0b"
    return ask("StartAuthSession", NULL, NULL, parameters=fields)


def start_hash() -> bytes:
    return ask("HashSequenceStart", parameters=sized(b"") + b"\x00\x0b")


def update_hash(sequence: int, data: bytes) -> bytes:
    return ask("SequenceUpdate", sequence, parameters=sized(data))


def complete_hash(sequence: int) -> bytes:
    return ask("SequenceComplete", sequence, parameters=sized(b"") + NULL.to_bytes(4))


def save(handle: int) -> bytes:
    return ask("ContextSave", handle)


def load(saved: bytes) -> bytes:
    """TPM2_ContextLoad of what a TPM2_ContextSave answered."""
    assert code_of(saved) == 0, hex(code_of(saved))
    return ask("ContextLoad", parameters=saved[10:])


def flush(handle: int) -> bytes:
    return ask("FlushContext", parameters=handle.to_bytes(4))
