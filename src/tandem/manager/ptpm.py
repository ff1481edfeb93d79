"""What the Manager does with the physical TPM; with `tcti` and the templates alone on tpm2-pytss.

Objects of the Manager are random children of a persistent root in the endorsement hierarchy.  The
root was made with a random `unique` that nobody kept: whoever has that hierarchy cannot make it
again, and whoever may not name its handle reaches nothing below it.  Each key has a secret
authValue.  Sessions are salted with the root: what is unsealed does not cross the TPM's bus in
clear.  At rest the Manager occupies no transient slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.errors import HostError, Refused
from tandem.evidence.attest import parse_quote
from tandem.evidence.certificate_files import der_parts
from tandem.evidence.host_approval import Approval, PublicKey, key_name, policy_reference
from tandem.evidence.host_state import BANKS, HostState, pcr_policy
from tandem.manager import tpm_templates as templates
from tandem.manager.ptpm_watch import PtpmWatch
from tandem.manager.tcti import PtpmFailed
from tandem.manager.tpm_access import CAPABILITY_MOST, TpmAccess, foreign_keys
from tandem.manager.tpm_templates import (
    AK_HANDLES,
    CHAIN_INDICES,
    ROOT_HANDLE,
    VERSION_INDICES,
    VERSION_SIZE,
    EkKind,
    KeyBlob,
    public_area,
)
from tandem.values import SHA256_SIZE, Secret

EK_CHAIN: Final = range(0x01C00100, 0x01C00200)  # NV indices of the EK certificate's CAs
QUOTE_TRIES: Final = 3  # a register may be extended between quote and read

__all__ = ["EkKind", "KeyBlob", "Ptpm", "PtpmQuote", "SignDigest", "public_area"]
SignDigest = Callable[[bytes], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class PtpmQuote:
    """TPMS_ATTEST and TPMT_SIGNATURE as the TPM wrote them, and the registers they cover."""

    attest: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]


class Ptpm(TpmAccess):
    """One owner's connection; not for two threads.

    What the Manager keeps there stands in one of two slots (0 and 1), so that the next generation
    of the master key is whole before the last one is taken away.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.watch = PtpmWatch(self.tcti)
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
        self.watch.look()
        self._flush_leftovers()

    def endorsement_key(self, kind: EkKind) -> bytes:
        """Make the EK of the default template and give its TPMT_PUBLIC."""
        with self.room():
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
        return b"".join(der_parts(self._nv_content(index))[:1])

    def endorsement_chain(self) -> tuple[bytes, ...]:
        """Read the CAs of the EK's certificate (DER) that the TPM brings (Profile 2.5, 2.2.1.5)."""
        found = [each for each in self._handles_from(EK_CHAIN[0]) if each in EK_CHAIN]
        indices = [self._esys.tr_from_tpmpublic(each) for each in found]
        return der_parts(b"".join(self._nv_content(each) for each in indices))

    def holds_a_host(self) -> bool:
        """Whether a Manager keeps anything in this TPM."""
        return bool(self._persistent() or self._indices())

    def free_slot(self) -> int:
        """Give a slot that anchors nothing, the first where both do."""
        return next((slot for slot, index in enumerate(CHAIN_INDICES)
                     if index not in self._indices()), 0)  # fmt: skip

    def make_root(self) -> bytes:
        """Make the root of everything that follows, and give its Name."""
        if self.holds_a_host():
            raise another_host()
        handle, *_ = self._esys.create_primary(
            None, templates.root_template(), tss.ESYS_TR.ENDORSEMENT
        )
        self._handles["root"] = self._made_persistent(handle, ROOT_HANDLE)
        return bytes(self._esys.tr_get_name(self._handles["root"]))

    def create_ak(self, auth: Secret) -> KeyBlob:
        """Make the host's AK: restricted, ECDSA P-256 with SHA-256."""
        return self._create(templates.signing_template(restricted=True), auth)

    def create_ca_key(self, auth: Secret) -> KeyBlob:
        """Make a CA's signing key, ECDSA P-256 with SHA-256."""
        return self._create(templates.signing_template(restricted=False), auth)

    def seal(self, secret: Secret, *, policy: bytes) -> KeyBlob:
        """Seal `secret` under a policy (`host_approval.authorized_policy`)."""
        return self._create(templates.sealed_template(policy), Secret(b""), secret.reveal())

    def change_auth(self, blob: KeyBlob, old: Secret, new: Secret) -> KeyBlob:
        """Give the same key, with the same Name, under another authValue."""
        root = self._handles["root"]
        with self._loaded(blob, old) as key, self._salted(tss.TPM2_SE.HMAC) as session:
            private = self._esys.object_change_auth(
                key, root, tss.TPM2B_AUTH(new.reveal()), session1=session
            )
        return KeyBlob(public=blob.public, private=bytes(private.marshal()))

    def define_chain_index(self, slot: int, auth: Secret) -> None:
        """Define what anchors the store: extend only, and beside it an index for its version."""
        for public in (
            templates.chain_public(CHAIN_INDICES[slot]),
            templates.version_public(VERSION_INDICES[slot]),
        ):
            self._esys.nv_define_space(tss.TPM2B_AUTH(auth.reveal()), public)

    def keep_ak(self, slot: int, ak: KeyBlob) -> None:
        """Make the AK persistent, so that it takes no transient slot."""
        with self.room():
            self._made_persistent(self._load(ak), AK_HANDLES[slot])

    def empty_slot(self, slot: int) -> None:
        """Take away what a slot holds: a generation that is over, or was never finished."""
        for each in self._indices() & {CHAIN_INDICES[slot], VERSION_INDICES[slot]}:
            self._esys.nv_undefine_space(self._esys.tr_from_tpmpublic(each), tss.ESYS_TR.OWNER)
        self._evict(AK_HANDLES[slot])

    def remove_host(self) -> None:
        """Take away all that the Manager keeps here: its store was never finished."""
        for slot in range(len(CHAIN_INDICES)):
            self.empty_slot(slot)
        self._evict(ROOT_HANDLE)
        self._handles.clear()

    def measure(self, register: int, data: bytes) -> None:
        """Extend a register with the digests of `data`; only an embedded pTPM is ever extended."""
        digests = [
            tss.TPMT_HA(
                hashAlg=BANKS[bank],
                digest=tss.TPMU_HA(**{bank: hashlib.new(bank, data).digest()}),
            )
            for bank in BANKS
        ]
        values = tss.TPML_DIGEST_VALUES(digests=digests)
        self._esys.pcr_extend(getattr(tss.ESYS_TR, f"PCR{register}"), values)

    # Each start

    def open_root(self, name: bytes) -> None:
        """Find the root by its Name; a TPM that does not have it is another host's."""
        found = b""
        if ROOT_HANDLE in self._persistent():
            self._handles["root"] = self._esys.tr_from_tpmpublic(ROOT_HANDLE)
            found = bytes(self._esys.tr_get_name(self._handles["root"]))
        if found != name:
            raise foreign_keys("it does not hold the root key that they were made under")

    def unseal(self, blob: KeyBlob, approval: Approval, key: PublicKey) -> Secret:
        """Give what was sealed for `key`, where the registers hold what `approval` says."""
        policy = pcr_policy(approval.state)
        reference = policy_reference(approval.subject, approval.generation)
        with (
            self.room(),
            self._flushed(self._load(blob)) as sealed,
            self._salted(tss.TPM2_SE.POLICY) as session,
        ):
            ticket = self._verified(key, policy + reference, approval.numbers)
            chosen = templates.state_selection(approval.state)
            self._esys.policy_pcr(session, tss.TPM2B_DIGEST(b""), chosen)
            try:
                self._esys.policy_authorize(session, policy, key_name(key), ticket, reference)
                return Secret(bytes(self._esys.unseal(sealed, session1=session)))
            except PtpmFailed as error:
                if error.number not in (tss.TPM2_RC.POLICY_FAIL, tss.TPM2_RC.VALUE):
                    raise
                raise Refused(
                    "TDM-SEALED-FOR-ANOTHER-STATE",
                    f"the pTPM does not unseal the key of {approval.subject}: it was sealed for "
                    "another approval key or generation, or the registers changed just now",
                    hint="start again; if it stays so, the host's identity was exchanged: put the "
                    "newest one back, or use `tandem host recover`",
                ) from error

    def use_keys(self, slot: int, ak: KeyBlob, auths: Mapping[str, Secret]) -> None:
        """Use the AK and the anchor of a slot from now on; `auths` has "ak" and "chain"."""
        gone = {CHAIN_INDICES[slot], VERSION_INDICES[slot]} - self._indices()
        if gone:
            raise _not_anchored(f"NV index {min(gone):#x} is gone")
        handle = AK_HANDLES[slot]
        if handle not in self._persistent():
            self.keep_ak(slot, ak)
        self._handles["ak"] = self._esys.tr_from_tpmpublic(handle)
        self.ak_public = public_area(ak)
        self._handles["chain"] = self._esys.tr_from_tpmpublic(CHAIN_INDICES[slot])
        self._handles["version"] = self._esys.tr_from_tpmpublic(VERSION_INDICES[slot])
        for name, auth in {"ak": "ak", "chain": "chain", "version": "chain"}.items():
            self._esys.tr_set_auth(self._handles[name], auths[auth].reveal())

    def close(self) -> None:
        """Let go of the connection; nothing is loaded."""
        self._esys.close()

    # Service

    def read_chain(self) -> bytes:
        """Give the value of the index that anchors the store; zeros before its first extend."""
        try:
            return self._nv_value("chain", SHA256_SIZE)
        except PtpmFailed as error:
            if error.number not in (tss.TPM2_RC.BAD_AUTH, tss.TPM2_RC.AUTH_FAIL):
                raise
            raise _not_anchored("its NV index has another authorization") from error

    def noted(self) -> tuple[int, int]:
        """Give the store's version and its writes here as noted last; zeros before the first."""
        content = self._nv_value("version", VERSION_SIZE)
        half = VERSION_SIZE // 2
        return int.from_bytes(content[:half]), int.from_bytes(content[half:])

    def note(self, version: int, writes: int) -> None:
        """Note both; only what is said of an older store, and of wear, depends on them."""
        index = self._handles["version"]
        half = VERSION_SIZE // 2
        data = tss.TPM2B_MAX_NV_BUFFER(version.to_bytes(half) + writes.to_bytes(half))
        self._esys.nv_write(index, data, 0, index)

    def extend_chain(self, data: bytes) -> None:
        """Extend the anchor: new value = SHA-256(old value ‖ data)."""
        index = self._handles["chain"]
        self._esys.nv_extend(index, tss.TPM2B_MAX_NV_BUFFER(data), index)

    @contextmanager
    def loaded_signer(self, blob: KeyBlob, auth: Secret) -> Iterator[SignDigest]:
        """Load a CA key for a while, and give what signs SHA-256 digests with it (ECDSA's r, s)."""
        with self._loaded(blob, auth) as key:
            yield lambda digest: self._sign(key, digest)

    def quote(self, qualifying_data: bytes, registers: Iterable[int]) -> PtpmQuote:
        """Quote `registers` of the SHA-256 bank with the AK, and say what they hold.

        They hardly ever change, so the values read last are tried first: a quote is one command.
        """
        chosen = tuple(sorted(registers))
        for _ in range(QUOTE_TRIES):
            attest, signature = self._esys.quote(
                self._handles["ak"],
                templates.selection(chosen, "sha256"),
                tss.TPM2B_DATA(qualifying_data),
                tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL),
            )
            quoted = parse_quote(bytes(attest))
            self.watch.require(quoted.reset_count)
            if _digest(self._pcrs, chosen) != quoted.pcr_digest:
                self._pcrs = self.read_pcrs(chosen)
            if _digest(self._pcrs, chosen) == quoted.pcr_digest:
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
        return self._read_bank("sha256", registers)

    def read_state(self, registers: Iterable[int]) -> HostState:
        """Read registers in the SHA-256 bank, and in the SHA-384 bank where the TPM has them."""
        chosen = tuple(registers)
        _, found = self._esys.get_capability(tss.TPM2_CAP.PCRS, 0, CAPABILITY_MOST)
        kept = [
            bank
            for bank, algorithm in BANKS.items()
            if templates.assigned(found.data.assignedPCR, algorithm) >= set(chosen)
        ]
        banks = dict.fromkeys(["sha256", *kept])  # SHA-256 in any case: its absence is an error
        return HostState(banks={bank: self._read_bank(bank, chosen) for bank in banks})

    def activate_credential(
        self, kind: EkKind, credential_blob: bytes, encrypted_secret: bytes
    ) -> bytes:
        """Recover a credential made for this EK and this AK (TPM2_ActivateCredential)."""
        try:
            blob = tss.TPM2B_ID_OBJECT(credential_blob)
            secret = tss.TPM2B_ENCRYPTED_SECRET(encrypted_secret)
        except IndexError:
            raise _foreign_challenge() from None
        with (
            self.room(),
            self._flushed(self._endorsement_key(kind)[0]) as ek,
            self._session(tss.TPM2_SE.POLICY) as session,
        ):
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
                if error.number == tss.TPM2_RC.FAILURE:
                    # libtpms says so of an RSA secret for another EK, too; this one fails if not.
                    self._esys.get_random(1)
                elif not error.number & tss.TPM2_RC.FMT1:  # nothing is said of the challenge
                    raise
                raise _foreign_challenge() from error
            return bytes(credential)

    # Parts

    def _verified(
        self, key: PublicKey, signed: bytes, numbers: tuple[int, int]
    ) -> tss.TPMT_TK_VERIFIED:
        """Have the TPM check a signature, and give the ticket that says so."""
        handle = self._esys.load_external(
            templates.approval_key_public(key), None, tss.ESYS_TR.ENDORSEMENT
        )
        with self._flushed(handle):
            digest = tss.TPM2B_DIGEST(hashlib.sha256(signed).digest())
            return self._esys.verify_signature(handle, digest, templates.ecdsa_signature(numbers))

    def _sign(self, key: tss.ESYS_TR, digest: bytes) -> tuple[int, int]:
        ticket = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
        signature = self._esys.sign(
            key,
            tss.TPM2B_DIGEST(digest),
            tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL),
            ticket,
        )
        ecdsa = signature.signature.ecdsa
        return int.from_bytes(bytes(ecdsa.signatureR)), int.from_bytes(bytes(ecdsa.signatureS))

    def _endorsement_key(self, kind: EkKind) -> tuple[tss.ESYS_TR, tss.TPM2B_PUBLIC]:
        handle, public, *_ = self._esys.create_primary(
            None,
            templates.ek_template(kind),
            tss.ESYS_TR.ENDORSEMENT,
            session1=tss.ESYS_TR.PASSWORD,
        )
        return handle, public


def _foreign_challenge() -> Refused:
    return Refused(
        "TDM-ACTIVATE-REFUSED",
        "the pTPM refuses the challenge: it was made for another EK or another AK",
        hint="make the challenge from this host's own, newest export",
    )


def _not_anchored(why: str) -> Refused:
    return Refused(
        "TDM-ROLLBACK-GENERATION",
        f"the pTPM does not anchor this store: {why}, so identity and store are of an earlier "
        "generation, or somebody exchanged it",
        hint="put the newest identity and store back; `tandem host restore` opens a backup, as a "
        "new epoch that every verifier sees",
    )


def _digest(pcrs: Mapping[int, bytes], registers: tuple[int, ...]) -> bytes:
    """Give the digest of register values as a quote holds it, with a SHA-256 key."""
    return hashlib.sha256(b"".join(pcrs.get(index, b"") for index in registers)).digest()


def another_host() -> Refused:
    """Say that a pTPM is in use by a host that is not this one."""
    return Refused(
        "TDM-PTPM-OF-ANOTHER-HOST",
        "the pTPM holds another host's keys, and anchors its store",
        hint="use that host's directory; if it is gone for good, take its objects away: "
        "`tpm2_evictcontrol -C o -c HANDLE` for "
        f"{', '.join(f'{each:#x}' for each in (ROOT_HANDLE, *AK_HANDLES))}, and "
        "`tpm2_nvundefine -C o INDEX` for "
        f"{', '.join(map(hex, (*CHAIN_INDICES, *VERSION_INDICES)))}, as there; an embedded one is "
        "ptpm/ in the host's directory",
    )
