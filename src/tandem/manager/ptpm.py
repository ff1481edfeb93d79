"""What the Manager does with the physical TPM, over `tcti`; the two are alone on tpm2-pytss.

Objects of the Manager are random children of a storage primary in the endorsement hierarchy, so
nobody who merely has that hierarchy can make them again, and each has a secret authValue.  Session
secrets are salted with that primary: what is unsealed does not cross the TPM's bus in clear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.errors import HostError, Refused
from tandem.evidence.attest import parse_quote
from tandem.manager.tcti import Esys, PtpmFailed
from tandem.values import SHA256_SIZE, Secret

CHAIN_INDEX: Final = 0x01800544  # owner's NV range (TCG Registry of Reserved Handles, 2.2.2)
CAPABILITY_MOST: Final = 64  # far more than objects or sessions fit in any TPM
NV_CHUNK: Final = 768  # below TPM2_MAX_NV_BUFFER_SIZE of every known TPM
PCR_READ_MOST: Final = 8  # digests in one TPM2_PCR_Read response
QUOTE_TRIES: Final = 3  # a register may be extended between quote and read

_BASE: Final = (
    tss.TPMA_OBJECT.FIXEDTPM
    | tss.TPMA_OBJECT.FIXEDPARENT
    | tss.TPMA_OBJECT.SENSITIVEDATAORIGIN
    | tss.TPMA_OBJECT.USERWITHAUTH
    | tss.TPMA_OBJECT.NODA
)
_STORAGE: Final = _BASE | tss.TPMA_OBJECT.RESTRICTED | tss.TPMA_OBJECT.DECRYPT
_SIGNING: Final = _BASE | tss.TPMA_OBJECT.SIGN_ENCRYPT
_SEALED: Final = tss.TPMA_OBJECT.FIXEDTPM | tss.TPMA_OBJECT.FIXEDPARENT | tss.TPMA_OBJECT.NODA
_AES: Final = tss.TPMT_SYM_DEF.parse("aes128cfb")
_POLICY_SECRET_ENDORSEMENT: Final = bytes.fromhex(  # EK Credential Profile 2.5, B.3: policyA
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)


@dataclass(frozen=True, kw_only=True)
class KeyBlob:
    """A key as it is kept on disk: TPM2B_PUBLIC and TPM2B_PRIVATE, useless outside this pTPM."""

    public: bytes
    private: bytes


class EkKind(Enum):
    """The EKs of the low-range templates (EK Credential Profile 2.5, B.3), by certificate index."""

    RSA_2048 = 0x01C00002
    ECC_P256 = 0x01C0000A


_EK_ALGORITHMS: Final = {EkKind.RSA_2048: "rsa2048:aes128cfb", EkKind.ECC_P256: "ecc256:aes128cfb"}


@dataclass(frozen=True, kw_only=True)
class PtpmQuote:
    """TPMS_ATTEST and TPMT_SIGNATURE as the TPM wrote them, and the registers they cover."""

    attest: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]


class Ptpm:
    """One owner's connection; not for two threads."""

    def __init__(self, descriptor: int) -> None:
        self._esys = Esys(descriptor)
        self._handles: dict[str, tss.ESYS_TR] = {}
        self._pcrs: dict[int, bytes] = {}  # as last read
        self.ak_public = b""

    # Provisioning

    def startup(self) -> None:
        """Make sure that the TPM is started, and empty: firmware or swtpm did it as a rule."""
        try:
            self._esys.startup(tss.TPM2_SU.CLEAR)
        except PtpmFailed as error:
            if error.number != tss.TPM2_RC.INITIALIZE:
                raise
        self._flush_leftovers()

    def endorsement_key(self, kind: EkKind) -> bytes:
        """Make the EK of the default template and give its TPMT_PUBLIC."""
        handle, public = self._endorsement_key(kind)
        with self._flushed(handle):
            return bytes(public.publicArea.marshal())

    def endorsement_certificate(self, kind: EkKind) -> bytes:
        """Read the EK's certificate (DER) from NV; empty where the TPM has none."""
        try:
            index = self._esys.tr_from_tpmpublic(kind.value)
        except PtpmFailed as error:
            if error.number != tss.TPM2_RC.HANDLE:
                raise
            return b""
        public, _ = self._esys.nv_read_public(index)
        size = int(public.nvPublic.dataSize)
        parts = [
            bytes(self._esys.nv_read(index, min(NV_CHUNK, size - at), at, index))
            for at in range(0, size, NV_CHUNK)
        ]
        return _der_without_padding(b"".join(parts))

    def create_ak(self, auth: Secret) -> KeyBlob:
        """Make the host's AK: restricted, ECDSA P-256 with SHA-256."""
        return self._create(_signing_template(_SIGNING | tss.TPMA_OBJECT.RESTRICTED), auth)

    def create_ca_key(self, auth: Secret) -> KeyBlob:
        """Make a CA's signing key, ECDSA P-256 with SHA-256."""
        return self._create(_signing_template(_SIGNING), auth)

    def seal(self, secret: Secret, registers: Iterable[int]) -> tuple[KeyBlob, dict[int, bytes]]:
        """Seal `secret` to `registers` (PolicyPCR, SHA-256 bank), and give their values."""
        chosen = tuple(registers)
        values = self.read_pcrs(chosen)
        blank = [index for index, value in values.items() if len(set(value)) == 1]
        if blank:
            raise Refused(
                "TDM-SEAL-UNMEASURED-PCR",
                f"PCR {', '.join(map(str, blank))} holds {values[blank[0]][:1].hex()} only: "
                "nothing was measured into it, and sealing to it protects nothing",
                hint="choose registers that the host's boot extends, with --pcrs",
            )
        template = tss.TPM2B_PUBLIC.parse("keyedhash", objectAttributes=_SEALED)
        with self._session(tss.TPM2_SE.TRIAL) as policy:
            self._esys.policy_pcr(policy, tss.TPM2B_DIGEST(b""), _selection(chosen))
            template.publicArea.authPolicy = self._esys.policy_get_digest(policy)
        return self._create(template, Secret(b""), secret.reveal()), values

    def define_chain_index(self, auth: Secret) -> None:
        """Define the NV index that anchors the store: extend only, written with `auth`."""
        if self._has_chain_index():
            raise Refused(
                "TDM-PTPM-OF-ANOTHER-HOST",
                f"the pTPM has NV index {CHAIN_INDEX:#x} already: it anchors another host's store",
                hint="use that host's directory; if it is gone for good, take its anchor away with "
                f"`tpm2_nvundefine -C o {CHAIN_INDEX:#x}`",
            )
        attributes = (
            (tss.TPM2_NT.EXTEND << tss.TPMA_NV.TPM2_NT_SHIFT)
            | (tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE | tss.TPMA_NV.NO_DA)
        )  # fmt: skip
        public = tss.TPM2B_NV_PUBLIC(
            nvPublic=tss.TPMS_NV_PUBLIC(
                nvIndex=CHAIN_INDEX,
                nameAlg=tss.TPM2_ALG.SHA256,
                attributes=tss.TPMA_NV(attributes),
                dataSize=SHA256_SIZE,
            )
        )
        self._esys.nv_define_space(tss.TPM2B_AUTH(auth.reveal()), public)

    def undefine_chain_index(self) -> None:
        """Take the anchor away again, where there is one: its store was never finished."""
        if self._has_chain_index():
            index = self._esys.tr_from_tpmpublic(CHAIN_INDEX)
            self._esys.nv_undefine_space(index, tss.ESYS_TR.OWNER)

    def pcr_extend(self, register: int, digest: bytes) -> None:
        """Extend one register of the SHA-256 bank; only an embedded pTPM is ever extended."""
        values = tss.TPML_DIGEST_VALUES(
            digests=[tss.TPMT_HA(hashAlg=tss.TPM2_ALG.SHA256, digest=tss.TPMU_HA(sha256=digest))]
        )
        self._esys.pcr_extend(getattr(tss.ESYS_TR, f"PCR{register}"), values)

    # Each start

    def unseal(self, blob: KeyBlob, pcrs: Mapping[int, bytes]) -> Secret:
        """Give what was sealed, where the registers still hold what they held then."""
        with (
            self._storage_primary() as parent,
            self._flushed(self._load(parent, blob)) as sealed,
            self._session(tss.TPM2_SE.POLICY, salted_with=parent) as session,
        ):
            self._esys.policy_pcr(session, tss.TPM2B_DIGEST(b""), _selection(pcrs))
            try:
                return Secret(bytes(self._esys.unseal(sealed, session1=session)))
            except PtpmFailed as error:
                if error.number != tss.TPM2_RC.POLICY_FAIL:
                    raise
                raise self._changed(pcrs) from error

    def load_keys(self, ak: KeyBlob, ca: KeyBlob, auths: Mapping[str, Secret]) -> None:
        """Load AK and CA key for the life of the Manager; `auths` has "ak", "ca" and "chain"."""
        with self._storage_primary() as parent:
            for name, blob in (("ak", ak), ("ca", ca)):
                self._handles[name] = self._load(parent, blob)
                self._esys.tr_set_auth(self._handles[name], auths[name].reveal())
        self._handles["chain"] = self._esys.tr_from_tpmpublic(CHAIN_INDEX)
        self._esys.tr_set_auth(self._handles["chain"], auths["chain"].reveal())
        self.ak_public = public_area(ak)

    def close(self) -> None:
        """Flush what is loaded."""
        for name in ("ak", "ca"):
            if name in self._handles:
                self._esys.flush_context(self._handles.pop(name))
        self._esys.close()

    # Service

    def read_chain(self) -> bytes:
        """Give the value of the index that anchors the store; zeros before its first extend."""
        index = self._handles["chain"]
        try:
            return bytes(self._esys.nv_read(index, SHA256_SIZE, 0, index))
        except PtpmFailed as error:
            if error.number != tss.TPM2_RC.NV_UNINITIALIZED:
                raise
            return bytes(SHA256_SIZE)

    def extend_chain(self, data: bytes) -> None:
        """Extend the anchor: new value = SHA-256(old value ‖ data)."""
        index = self._handles["chain"]
        self._esys.nv_extend(index, tss.TPM2B_MAX_NV_BUFFER(data), index)

    def sign_digest(self, digest: bytes) -> tuple[int, int]:
        """Sign a SHA-256 digest with the CA key; gives ECDSA's r and s."""
        ticket = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
        signature = self._esys.sign(
            self._handles["ca"],
            tss.TPM2B_DIGEST(digest),
            tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL),
            ticket,
        )
        ecdsa = signature.signature.ecdsa
        return int.from_bytes(bytes(ecdsa.signatureR)), int.from_bytes(bytes(ecdsa.signatureS))

    def quote(self, qualifying_data: bytes, registers: Iterable[int]) -> PtpmQuote:
        """Quote `registers` of the SHA-256 bank with the AK, and say what they hold.

        They hardly ever change, so the values read last are tried first: a quote is one command.
        """
        chosen = tuple(sorted(registers))
        for _ in range(QUOTE_TRIES):
            attest, signature = self._esys.quote(
                self._handles["ak"],
                _selection(chosen),
                tss.TPM2B_DATA(qualifying_data),
                tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL),
            )
            quoted = parse_quote(bytes(attest)).pcr_digest
            if _digest(self._pcrs, chosen) != quoted:
                self._pcrs = self.read_pcrs(chosen)
            if _digest(self._pcrs, chosen) == quoted:
                return PtpmQuote(
                    attest=bytes(attest), signature=bytes(signature.marshal()), pcrs=self._pcrs
                )
        raise HostError(
            "TDM-PTPM-PCRS-MOVE",
            f"the host's PCRs changed during each of {QUOTE_TRIES} quotes",
            hint="ask again when the host has finished to start",
        )

    def read_pcrs(self, registers: Iterable[int]) -> dict[int, bytes]:
        """Read registers of the SHA-256 bank."""
        wanted = sorted(registers)
        values: dict[int, bytes] = {}
        for at in range(0, len(wanted), PCR_READ_MOST):
            part = tuple(wanted[at : at + PCR_READ_MOST])
            _, _, digests = self._esys.pcr_read(_selection(part))
            if len(digests) != len(part):
                raise HostError(
                    "TDM-PTPM-NO-SHA256",
                    "the pTPM has no SHA-256 bank with these registers",
                    hint="activate the SHA-256 bank in the firmware's set-up",
                )
            values |= {index: bytes(digest) for index, digest in zip(part, digests, strict=True)}
        return values

    def activate_credential(
        self, kind: EkKind, credential_blob: bytes, encrypted_secret: bytes
    ) -> bytes:
        """Recover a credential made for this EK and this AK (TPM2_ActivateCredential)."""
        try:
            blob = tss.TPM2B_ID_OBJECT(credential_blob)
            secret = tss.TPM2B_ENCRYPTED_SECRET(encrypted_secret)
        except IndexError:
            raise _foreign_challenge() from None
        ek, _ = self._endorsement_key(kind)
        with self._flushed(ek), self._session(tss.TPM2_SE.POLICY) as session:
            self._esys.policy_secret(tss.ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
            try:
                credential = self._esys.activate_credential(
                    self._handles["ak"],
                    ek,
                    blob,
                    secret,
                    session1=tss.ESYS_TR.PASSWORD,
                    session2=session,
                )
            except PtpmFailed as error:
                if not error.number:
                    raise
                raise _foreign_challenge() from error
            return bytes(credential)

    # Parts

    def _changed(self, pcrs: Mapping[int, bytes]) -> Refused:
        found = self.read_pcrs(pcrs)
        changed = [str(index) for index in found if found[index] != pcrs[index]]
        return Refused(
            "TDM-HOST-STATE-CHANGED",
            f"the pTPM does not unseal the master key: PCR {', '.join(changed)} changed since "
            "`tandem host init`",
            hint="boot the host as it was then; with an embedded pTPM, PCR 8 is the kernel and its "
            "command line, PCR 9 Tandem's code and QEMU",
        )

    def _flush_leftovers(self) -> None:
        """Flush what a Manager that was killed left loaded: only its one owner loads into it."""
        for first in (tss.TPM2_HC.TRANSIENT_FIRST, tss.TPM2_HC.LOADED_SESSION_FIRST):
            for handle in self._handles_from(first):
                self._esys.flush_context(self._esys.tr_from_tpmpublic(handle))

    def _handles_from(self, first: int, most: int = CAPABILITY_MOST) -> list[int]:
        _, found = self._esys.get_capability(tss.TPM2_CAP.HANDLES, first, most)
        return [int(handle) for handle in found.data.handles]

    def _has_chain_index(self) -> bool:
        return self._handles_from(CHAIN_INDEX, most=1) == [CHAIN_INDEX]

    def _endorsement_key(self, kind: EkKind) -> tuple[tss.ESYS_TR, tss.TPM2B_PUBLIC]:
        template = tss.TPM2B_PUBLIC.parse(
            _EK_ALGORITHMS[kind],
            objectAttributes=(_STORAGE & ~tss.TPMA_OBJECT.USERWITHAUTH & ~tss.TPMA_OBJECT.NODA)
            | tss.TPMA_OBJECT.ADMINWITHPOLICY,
            authPolicy=_POLICY_SECRET_ENDORSEMENT,
        )
        if kind is EkKind.RSA_2048:
            template.publicArea.unique.rsa = bytes(256)
        else:
            template.publicArea.unique.ecc = tss.TPMS_ECC_POINT(x=bytes(32), y=bytes(32))
        handle, public, *_ = self._esys.create_primary(
            None, template, tss.ESYS_TR.ENDORSEMENT, session1=tss.ESYS_TR.PASSWORD
        )
        return handle, public

    @contextmanager
    def _flushed(self, handle: Any) -> Iterator[Any]:
        """Flush an object or a session after use, whatever comes of it."""
        try:
            yield handle
        finally:
            self._esys.flush_context(handle)

    @contextmanager
    def _storage_primary(self) -> Iterator[tss.ESYS_TR]:
        template = tss.TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=_STORAGE)
        handle, *_ = self._esys.create_primary(None, template, tss.ESYS_TR.ENDORSEMENT)
        with self._flushed(handle):
            yield handle

    @contextmanager
    def _session(
        self, kind: tss.TPM2_SE, salted_with: tss.ESYS_TR = tss.ESYS_TR.NONE
    ) -> Iterator[tss.ESYS_TR]:
        """Start a session; a salted one encrypts what it carries, both ways where it can."""
        session = self._esys.start_auth_session(
            tpm_key=salted_with,
            bind=tss.ESYS_TR.NONE,
            session_type=kind,
            symmetric=_AES,
            auth_hash=tss.TPM2_ALG.SHA256,
        )
        attributes = tss.TPMA_SESSION.CONTINUESESSION
        if salted_with != tss.ESYS_TR.NONE:
            attributes |= tss.TPMA_SESSION.ENCRYPT
            if kind == tss.TPM2_SE.HMAC:
                attributes |= tss.TPMA_SESSION.DECRYPT
        with self._flushed(session):
            self._esys.trsess_set_attributes(session, attributes)
            yield session

    def _create(self, template: tss.TPM2B_PUBLIC, auth: Secret, sealed: bytes = b"") -> KeyBlob:
        sensitive = tss.TPM2B_SENSITIVE_CREATE(
            tss.TPMS_SENSITIVE_CREATE(
                userAuth=tss.TPM2B_AUTH(auth.reveal()), data=tss.TPM2B_SENSITIVE_DATA(sealed)
            )
        )
        with (
            self._storage_primary() as parent,
            self._session(tss.TPM2_SE.HMAC, salted_with=parent) as session,
        ):
            private, public, *_ = self._esys.create(parent, sensitive, template, session1=session)
        return KeyBlob(public=bytes(public.marshal()), private=bytes(private.marshal()))

    def _load(self, parent: tss.ESYS_TR, blob: KeyBlob) -> tss.ESYS_TR:
        private, _ = tss.TPM2B_PRIVATE.unmarshal(blob.private)
        public, _ = tss.TPM2B_PUBLIC.unmarshal(blob.public)
        try:
            return self._esys.load(parent, private, public)
        except PtpmFailed as error:
            if not error.number:
                raise
            raise Refused(
                "TDM-PTPM-FOREIGN-KEYS",
                "the pTPM does not load the Manager's keys: they belong to another TPM, or its "
                "endorsement seed was changed",
                hint="give the host directory back the TPM that it was made with",
            ) from error


def public_area(blob: KeyBlob) -> bytes:
    """Give the TPMT_PUBLIC of a key: its TPM2B_PUBLIC without the size."""
    return blob.public[2:]


def _foreign_challenge() -> Refused:
    return Refused(
        "TDM-ACTIVATE-REFUSED",
        "the pTPM refuses the challenge: it was made for another EK or another AK",
        hint="make the challenge from this host's own, newest export",
    )


def _digest(pcrs: Mapping[int, bytes], registers: tuple[int, ...]) -> bytes:
    """Give the digest of register values as a quote holds it, with a SHA-256 key."""
    return hashlib.sha256(b"".join(pcrs.get(index, b"") for index in registers)).digest()


def _signing_template(attributes: tss.TPMA_OBJECT) -> tss.TPM2B_PUBLIC:
    return tss.TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=attributes)


def _selection(registers: Iterable[int]) -> tss.TPML_PCR_SELECTION:
    return tss.TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, sorted(registers))))


def _der_without_padding(data: bytes) -> bytes:
    """Cut what follows the certificate's outer SEQUENCE in a larger NV index."""
    if len(data) < 4 or data[:2] != b"\x30\x82":
        return b""
    return data[: 4 + int.from_bytes(data[2:4])]
