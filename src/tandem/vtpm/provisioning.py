"""What a vTPM is made with, once: endorsement keys and their certificates, the AK, the mailbox.

Templates, handles and NV indices of the endorsement keys are those of the TCG EK Credential
Profile 2.x, low range (sections 2.2.1 and B.3.3, B.3.4).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntFlag
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.deep_quote import REQUEST_SIZE
from tandem.vtpm.keys import VtpmKeys
from tandem.vtpm.libtpms import Engine
from tandem.vtpm.manager_client import Awaited
from tandem.vtpm.state import VtpmState
from tandem.wire import tpm_commands as tpm
from tandem.wire.manager_rpc import EkCertificates
from tandem.wire.tpm_commands import StartupType

EK_RSA_HANDLE: Final = 0x81010001
EK_ECC_HANDLE: Final = 0x81010016
AK_HANDLE: Final = 0x81810001  # range of the platform (TCG registry of reserved handles)
EK_RSA_CERTIFICATE: Final = 0x01C00002
EK_ECC_CERTIFICATE: Final = 0x01C0000A
EK_CHAIN: Final = 0x01C00100  # and on, issuer first (section 2.2.1.5)
MAILBOX_KEY: Final = 0x01400100  # range of the platform manufacturer
MAILBOX_REQUEST: Final = 0x01400101
AK_CERTIFICATE: Final = 0x01400102  # of this launch, for who knows nothing of deep quotes
AK_ISSUER: Final = 0x01400103
MAILBOX_ANSWERS: Final = tuple(range(0x01400110, 0x01400118))
ANSWER_INDEX_SIZE: Final = 2048  # MAX_NV_INDEX_SIZE of libtpms
WRITE_SIZE: Final = 1024  # MAX_NV_BUFFER_SIZE of libtpms
KEY_INDEX_SIZE: Final = 1
CERTIFICATE_INDEX_SIZE: Final = 1024  # an AK's certificate of the longest names has 787 bytes
BANKS: Final = (tpm.SHA256, tpm.SHA384)


class Nv(IntFlag):
    """TPMA_NV (Part 2, 13.4)."""

    PPWRITE = 1 << 0
    AUTHWRITE = 1 << 2
    POLICYWRITE = 1 << 3
    WRITEDEFINE = 1 << 13
    PPREAD = 1 << 16
    OWNERREAD = 1 << 17
    AUTHREAD = 1 << 18
    NO_DA = 1 << 25
    WRITTEN = 1 << 29
    PLATFORMCREATE = 1 << 30


OURS: Final = Nv.PLATFORMCREATE | Nv.NO_DA | Nv.AUTHREAD
CERTIFICATE: Final = OURS | Nv.PPWRITE | Nv.PPREAD | Nv.OWNERREAD | Nv.WRITEDEFINE

# TPMT_PUBLIC (Part 2, 12.2.4).  Attributes, TPMA_OBJECT (8.3): fixedTPM, fixedParent,
# sensitiveDataOrigin, restricted; then adminWithPolicy and decrypt, or userWithAuth, noDA and sign.
_EK_ATTRIBUTES: Final = 0x000300B2
_AK_ATTRIBUTES: Final = 0x00050472
_EK_HEAD: Final = struct.pack(">HI", tpm.SHA256, _EK_ATTRIBUTES) + tpm.sized(
    tpm.policy_secret_digest(tpm.ENDORSEMENT.to_bytes(4))
)
_AES_128_CFB: Final = struct.pack(">HHH", 0x0006, 128, 0x0043)
_RSA, _ECC, _ECDSA, _NIST_P256 = 0x0001, 0x0023, 0x0018, 0x0003
EK_RSA_TEMPLATE: Final = (
    _RSA.to_bytes(2) + _EK_HEAD + _AES_128_CFB + struct.pack(">HHI", tpm.ALG_NULL, 2048, 0)
    + tpm.sized(bytes(256))
)  # fmt: skip
EK_ECC_TEMPLATE: Final = (
    _ECC.to_bytes(2) + _EK_HEAD + _AES_128_CFB
    + struct.pack(">HHH", tpm.ALG_NULL, _NIST_P256, tpm.ALG_NULL)
    + tpm.sized(bytes(32)) + tpm.sized(bytes(32))
)  # fmt: skip
AK_TEMPLATE: Final = (
    struct.pack(">HHI", _ECC, tpm.SHA256, _AK_ATTRIBUTES) + tpm.sized(b"")
    + struct.pack(">HHHHH", tpm.ALG_NULL, _ECDSA, tpm.SHA256, _NIST_P256, tpm.ALG_NULL)
    + tpm.sized(b"") + tpm.sized(b"")
)  # fmt: skip

Certify = Callable[[bytes, bytes], Awaited[EkCertificates]]


def manufacture(engine: Engine, keys: VtpmKeys, certify: Certify) -> VtpmState:
    """Provision an engine that has just been powered on and started, empty."""
    engine.run(tpm.pcr_allocate(BANKS))
    rsa = _make_persistent(engine, tpm.ENDORSEMENT, EK_RSA_TEMPLATE, EK_RSA_HANDLE)
    ecc = _make_persistent(engine, tpm.ENDORSEMENT, EK_ECC_TEMPLATE, EK_ECC_HANDLE)
    certified = certify(rsa, ecc)
    ak_auth = keys.ak_auth.reveal()
    ak = _make_persistent(engine, tpm.PLATFORM, AK_TEMPLATE, AK_HANDLE, ak_auth)
    _define_mailbox(engine, keys.mailbox_auth.reveal())
    certificates = certified()
    _store_certificate(engine, EK_RSA_CERTIFICATE, certificates.rsa)
    _store_certificate(engine, EK_ECC_CERTIFICATE, certificates.ecc)
    for number, offset in enumerate(range(0, len(certificates.chain), ANSWER_INDEX_SIZE)):
        part = certificates.chain[offset : offset + ANSWER_INDEX_SIZE]
        _store_certificate(engine, EK_CHAIN + number, part)
    return VtpmState(engine=b"", ek=rsa, ak=ak)


def power_cycle(engine: Engine) -> None:
    """End what runs in order and begin again: only what is permanent is left."""
    engine.run(tpm.shutdown(StartupType.CLEAR))
    engine.power_off()
    engine.power_on()


def _make_persistent(
    engine: Engine, hierarchy: int, template: bytes, persistent: int, auth: bytes = b""
) -> bytes:
    """Make a primary key and its persistent copy; give its TPMT_PUBLIC."""
    made = engine.run(tpm.create_primary(hierarchy, template, auth), with_handle=True)
    owner = tpm.PLATFORM if hierarchy == tpm.PLATFORM else tpm.OWNER
    engine.run(tpm.evict_control(owner, made.handle, persistent))
    engine.run(tpm.flush_context(made.handle))
    return Cursor(made.parameters, "CreatePrimary response").sized("outPublic")


def _store_certificate(engine: Engine, index: int, certificate: bytes) -> None:
    public = tpm.nv_public(index, CERTIFICATE, len(certificate))
    engine.run(tpm.nv_define_space(tpm.PLATFORM, public))
    write_index(engine, index, certificate, tpm.password, authority=tpm.PLATFORM)
    engine.run(tpm.nv_write_lock(tpm.PLATFORM, index, tpm.password()))


def _define_mailbox(engine: Engine, auth: bytes) -> None:
    """Define the indices; the key index is written here and never again, so its Name is final."""
    key = tpm.nv_public(MAILBOX_KEY, OURS | Nv.AUTHWRITE, KEY_INDEX_SIZE)
    engine.run(tpm.nv_define_space(tpm.PLATFORM, key, auth))
    write_index(engine, MAILBOX_KEY, bytes(KEY_INDEX_SIZE), lambda: tpm.password(auth))
    request = tpm.nv_public(MAILBOX_REQUEST, OURS | Nv.AUTHWRITE, REQUEST_SIZE)
    engine.run(tpm.nv_define_space(tpm.PLATFORM, request))
    written = tpm.nv_public(MAILBOX_KEY, OURS | Nv.AUTHWRITE | Nv.WRITTEN, KEY_INDEX_SIZE)
    policy = tpm.policy_secret_digest(tpm.nv_name(written))
    sizes = dict.fromkeys((AK_CERTIFICATE, AK_ISSUER), CERTIFICATE_INDEX_SIZE)
    sizes |= dict.fromkeys(MAILBOX_ANSWERS, ANSWER_INDEX_SIZE)
    for index, size in sizes.items():
        answer = tpm.nv_public(index, OURS | Nv.POLICYWRITE, size, policy)
        engine.run(tpm.nv_define_space(tpm.PLATFORM, answer))


def write_index(
    engine: Engine,
    index: int,
    data: bytes,
    authorize: Callable[[], bytes],
    authority: int | None = None,
) -> None:
    """Write `data` to an NV index in pieces that the engine takes, each authorized anew."""
    by = index if authority is None else authority
    for offset in range(0, len(data), WRITE_SIZE):
        piece = data[offset : offset + WRITE_SIZE]
        engine.run(tpm.nv_write(by, index, piece, offset, authorize()))
