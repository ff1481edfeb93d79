"""TPM commands of an attacker and his victim, written by hand so that nothing helps either.

The same steps run against one plain swtpm and through the broker.
"""

from __future__ import annotations

import struct
from typing import Protocol

from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Response, parse_response

RC_SUCCESS = 0
CREATE = 0x153  # TPM_CC (Part 2, 6.5.2)
LOAD = 0x157
UNSEAL = 0x15E
GET_RANDOM = 0x17B
HASH_SEQUENCE_START = 0x186
SEQUENCE_UPDATE = 0x15C
SEQUENCE_COMPLETE = 0x13E
READ_PUBLIC = 0x173
DICTIONARY_ATTACK_PARAMETERS = 0x13A

STORAGE_ATTRIBUTES = 0x00030072  # fixedTPM, fixedParent, own data, userWithAuth, restricted decrypt
SEALED_ATTRIBUTES = 0x00000452  # fixedTPM, fixedParent, userWithAuth, noDA
GUESSABLE_ATTRIBUTES = 0x00000052  # the same, and wrong guesses count
KEYEDHASH, ECC, AES, CFB, P256 = 0x0008, 0x0023, 0x0006, 0x0043, 0x0003


class Tpm(Protocol):
    """A client's way to a TPM."""

    def transceive(self, command: bytes) -> bytes:
        """Send one command, and wait for its response."""


def run(client: Tpm, command: bytes, *, with_handle: bool = False) -> Response:
    """Run a command, whatever comes of it; a TPM may ask for it again (TPM_RC_RETRY)."""
    while True:
        response = parse_response(client.transceive(command), with_handle=with_handle)
        if response.code != tpm.Rc.RETRY:
            return response


def done(client: Tpm, command: bytes, *, with_handle: bool = False) -> Response:
    """Run a command that must succeed."""
    response = run(client, command, with_handle=with_handle)
    assert response.code == RC_SUCCESS, f"{command[6:10].hex()}: {response.code:#x}"
    return response


def storage_public() -> bytes:
    """Give the TPMT_PUBLIC of a P-256 storage key."""
    scheme = struct.pack(">6H", AES, 128, CFB, tpm.ALG_NULL, P256, tpm.ALG_NULL)
    head = struct.pack(">HHI", ECC, tpm.SHA256, STORAGE_ATTRIBUTES)
    return head + tpm.sized(b"") + scheme + tpm.sized(b"") + tpm.sized(b"")


def make_primary(client: Tpm) -> int:
    """Make a storage key in the owner hierarchy; gives its handle."""
    return done(client, tpm.create_primary(tpm.OWNER, storage_public()), with_handle=True).handle


def seal(
    client: Tpm,
    parent: int,
    secret: bytes,
    auth: bytes = b"",
    attributes: int = SEALED_ATTRIBUTES,
    policy: bytes = b"",
) -> tuple[bytes, bytes]:
    """Seal a secret; gives TPM2B_PRIVATE and TPM2B_PUBLIC."""
    sensitive = tpm.sized(tpm.sized(auth) + tpm.sized(secret))
    public = struct.pack(">HHI", KEYEDHASH, tpm.SHA256, attributes)
    public += tpm.sized(policy) + tpm.ALG_NULL.to_bytes(2) + tpm.sized(b"")
    fields = sensitive + tpm.sized(public) + tpm.sized(b"") + bytes(4)
    made = done(client, tpm.command(CREATE, (parent,), fields, [tpm.password()])).parameters
    private_end = 2 + int.from_bytes(made[:2])
    public_end = private_end + 2 + int.from_bytes(made[private_end : private_end + 2])
    return made[:private_end], made[private_end:public_end]


def load(parent: int, blob: tuple[bytes, bytes]) -> bytes:
    """TPM2_Load (Part 3, 12.2)."""
    return tpm.command(LOAD, (parent,), blob[0] + blob[1], [tpm.password()])


def unseal(handle: int, auth: bytes = b"") -> bytes:
    """TPM2_Unseal (Part 3, 12.7)."""
    return tpm.command(UNSEAL, (handle,), b"", [tpm.password(auth)])


def start_hash() -> bytes:
    """TPM2_HashSequenceStart (Part 3, 17.4) for SHA-256."""
    return tpm.command(HASH_SEQUENCE_START, (), tpm.sized(b"") + tpm.SHA256.to_bytes(2))


def update(sequence: int, data: bytes) -> bytes:
    """TPM2_SequenceUpdate (Part 3, 17.6)."""
    return tpm.command(SEQUENCE_UPDATE, (sequence,), tpm.sized(data), [tpm.password()])


def complete(sequence: int) -> bytes:
    """TPM2_SequenceComplete (Part 3, 17.7)."""
    fields = tpm.sized(b"") + tpm.NULL.to_bytes(4)
    return tpm.command(SEQUENCE_COMPLETE, (sequence,), fields, [tpm.password()])


def get_random(count: int = 8) -> bytes:
    """TPM2_GetRandom (Part 3, 16.1)."""
    return tpm.command(GET_RANDOM, (), count.to_bytes(2))


def read_public(handle: int) -> bytes:
    """TPM2_ReadPublic (Part 3, 12.4)."""
    return tpm.command(READ_PUBLIC, (handle,))


def handles(client: Tpm, first: int) -> list[int]:
    """List the handles of a kind that a client sees (TPM2_GetCapability, Part 3, 30.2)."""
    asked = tpm.get_capability(tpm.CAPABILITY_HANDLES, first, 64)
    listed = done(client, asked).parameters[5:]
    count = int.from_bytes(listed[:4])
    return list(struct.unpack(f">{count}I", listed[4 : 4 + 4 * count]))
