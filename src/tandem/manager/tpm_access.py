"""How the Manager gets at things in the pTPM: loaded for as long as they are used, then flushed.

What it does with them is in `ptpm`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.errors import HostError, Refused
from tandem.manager import tpm_templates as templates
from tandem.manager.tcti import Esys, PtpmFailed
from tandem.manager.tpm_templates import (
    AK_HANDLES,
    CHAIN_INDICES,
    ROOT_HANDLE,
    VERSION_INDICES,
    KeyBlob,
)
from tandem.values import Secret
from tandem.wire.tpm_commands import (
    LOADED_SESSION_FIRST,
    SAVED_SESSION_FIRST,
    TRANSIENT_FIRST,
    flush_context,
)

CAPABILITY_MOST: Final = 64  # far more than objects or sessions fit in any TPM
NV_CHUNK: Final = 768  # below TPM2_MAX_NV_BUFFER_SIZE of every known TPM
SIZE_FIELD: Final = 2  # bytes, before the content of a TPM2B structure
PCR_READ_MOST: Final = 8  # digests in one TPM2_PCR_Read response
_AES: Final = tss.TPMT_SYM_DEF.parse("aes128cfb")


class TpmAccess:
    """One owner's connection, and what it found: `root`, `ak` and `chain` by name."""

    def __init__(self, descriptor: int) -> None:
        self._esys = Esys(descriptor)
        self.tcti = self._esys.tcti
        self.room: Callable[[], AbstractContextManager[None]] = nullcontext  # with every slot free
        self._handles: dict[str, tss.ESYS_TR] = {}

    def _read_bank(self, bank: str, registers: Iterable[int]) -> dict[int, bytes]:
        wanted = sorted(registers)
        values: dict[int, bytes] = {}
        for at in range(0, len(wanted), PCR_READ_MOST):
            part = tuple(wanted[at : at + PCR_READ_MOST])
            _, _, digests = self._esys.pcr_read(templates.selection(part, bank))
            if len(digests) != len(part):
                raise HostError(
                    "TDM-PTPM-NO-SHA256",
                    "the pTPM has no SHA-256 bank with these registers",
                    hint="activate the SHA-256 bank in the firmware's set-up",
                )
            values |= {index: bytes(digest) for index, digest in zip(part, digests, strict=True)}
        return values

    def _flush_leftovers(self) -> None:
        """Flush what a Manager that was killed left loaded: only its one owner loads into it."""
        for first in (TRANSIENT_FIRST, LOADED_SESSION_FIRST, SAVED_SESSION_FIRST):
            for handle in self._handles_from(first):
                self.tcti.transceive(flush_context(handle))

    def _nv_content(self, index: tss.ESYS_TR) -> bytes:
        public, _ = self._esys.nv_read_public(index)
        size = int(public.nvPublic.dataSize)
        return b"".join(
            bytes(self._esys.nv_read(index, min(NV_CHUNK, size - at), at, index))
            for at in range(0, size, NV_CHUNK)
        )

    def _handles_from(self, first: int, most: int = CAPABILITY_MOST) -> list[int]:
        _, found = self._esys.get_capability(tss.TPM2_CAP.HANDLES, first, most)
        return [int(handle) for handle in found.data.handles]

    def _persistent(self) -> set[int]:
        return {ROOT_HANDLE, *AK_HANDLES} & set(self._handles_from(ROOT_HANDLE))

    def _indices(self) -> set[int]:
        return {*CHAIN_INDICES, *VERSION_INDICES} & set(self._handles_from(CHAIN_INDICES[0]))

    def _nv_value(self, name: str, size: int) -> bytes:
        """Read one of the Manager's indices; zeros where nothing was written yet."""
        index = self._handles[name]
        try:
            return bytes(self._esys.nv_read(index, size, 0, index))
        except PtpmFailed as error:
            if error.number != tss.TPM2_RC.NV_UNINITIALIZED:
                raise
            return bytes(size)

    def _made_persistent(self, handle: tss.ESYS_TR, at: int) -> tss.ESYS_TR:
        """Keep a loaded object at a persistent handle, and take its transient slot back."""
        with self._flushed(handle):
            return self._esys.evict_control(tss.ESYS_TR.OWNER, handle, at)

    def _evict(self, persistent: int) -> None:
        if persistent in self._persistent():
            handle = self._esys.tr_from_tpmpublic(persistent)
            self._esys.evict_control(tss.ESYS_TR.OWNER, handle, persistent)

    @contextmanager
    def _flushed(self, handle: Any) -> Iterator[Any]:
        """Flush an object or a session after use, whatever comes of it."""
        try:
            yield handle
        finally:
            self._esys.flush_context(handle)

    def _salted(self, kind: tss.TPM2_SE) -> AbstractContextManager[tss.ESYS_TR]:
        """Start a session whose secret only the root opens."""
        return self._session(kind, salted_with=self._handles["root"])

    @contextmanager
    def _session(
        self, kind: tss.TPM2_SE, salted_with: tss.ESYS_TR = tss.ESYS_TR.NONE
    ) -> Iterator[tss.ESYS_TR]:
        """Start a session; a salted one encrypts what it carries, both ways where it can."""
        attributes = tss.TPMA_SESSION.CONTINUESESSION
        if salted_with != tss.ESYS_TR.NONE:
            attributes |= tss.TPMA_SESSION.ENCRYPT
            if kind == tss.TPM2_SE.HMAC:
                attributes |= tss.TPMA_SESSION.DECRYPT
        with self.room():
            session = self._esys.start_auth_session(
                tpm_key=salted_with,
                bind=tss.ESYS_TR.NONE,
                session_type=kind,
                symmetric=_AES,
                auth_hash=tss.TPM2_ALG.SHA256,
            )
            with self._flushed(session):
                self._esys.trsess_set_attributes(session, attributes)
                yield session

    def _create(self, template: tss.TPM2B_PUBLIC, auth: Secret, sealed: bytes = b"") -> KeyBlob:
        sensitive = tss.TPM2B_SENSITIVE_CREATE(
            tss.TPMS_SENSITIVE_CREATE(
                userAuth=tss.TPM2B_AUTH(auth.reveal()), data=tss.TPM2B_SENSITIVE_DATA(sealed)
            )
        )
        with self._salted(tss.TPM2_SE.HMAC) as session:
            root = self._handles["root"]
            private, public, *_ = self._esys.create(root, sensitive, template, session1=session)
        return KeyBlob(public=bytes(public.marshal()), private=bytes(private.marshal()))

    @contextmanager
    def _loaded(self, blob: KeyBlob, auth: Secret) -> Iterator[tss.ESYS_TR]:
        with self.room(), self._flushed(self._load(blob)) as key:
            self._esys.tr_set_auth(key, auth.reveal())
            yield key

    def _load(self, blob: KeyBlob) -> tss.ESYS_TR:
        private = _read(tss.TPM2B_PRIVATE, blob.private)
        public = _read(tss.TPM2B_PUBLIC, blob.public)
        try:
            return self._esys.load(self._handles["root"], private, public)
        except PtpmFailed as error:
            if not error.number & tss.TPM2_RC.FMT1:  # busy or locked: nothing is said of the key
                raise
            raise foreign_keys("it does not load them") from error


def _read(kind: Any, content: bytes) -> Any:
    """Read a part of a key blob, which may be anything: nobody vouches for it before it opens."""
    try:
        value, size = kind.unmarshal(content)
    except tss.TSS2_Exception:
        value, size = None, 0
    if size != len(content) or size <= SIZE_FIELD:
        raise foreign_keys("a blob of theirs is none")
    return value


def foreign_keys(why: str) -> Refused:
    """Say that the Manager's keys are of another pTPM."""
    return Refused(
        "TDM-PTPM-FOREIGN-KEYS",
        f"the Manager's keys are another TPM's, or this one's endorsement seed was changed: {why}",
        hint="give the host directory back the TPM that it was made with, or bring a backup to "
        "this one with `tandem host restore`",
    )
