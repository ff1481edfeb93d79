"""NV mailbox: a guest writes a request to one NV index and reads its deep quote from others.

The request is read back from the engine after the guest's NV_Write, since sessions may encrypt it
on the wire, and the answer is in place before that NV_Write is answered.  A mailbox need not
survive power loss, so its writes alone cost no sync.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.deep_quote import REQUEST_SIZE, frame_answer
from tandem.values import Secret
from tandem.vtpm.ak_certificate import AkCertificate
from tandem.vtpm.libtpms import CommandFailed, Engine
from tandem.vtpm.parking import session_slot
from tandem.vtpm.provisioning import (
    AK_CERTIFICATE,
    AK_ISSUER,
    ANSWER_INDEX_SIZE,
    CERTIFICATE_INDEX_SIZE,
    MAILBOX_ANSWERS,
    MAILBOX_KEY,
    MAILBOX_REQUEST,
    write_index,
)
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Rc

MakeAnswer = Callable[[bytes], bytes]  # request in, framed answer out
INDEX_FIELD: Final = slice(14, 18)  # nvIndex, after header and authHandle (Part 3, 31.7)
BEGINNING: Final = bytes(2)  # offset 0, the last parameter of NV_Read (31.13)
SUCCEEDED: Final = Rc.SUCCESS.to_bytes(4)
CODE_FIELD: Final = slice(6, 10)
NOT_ASKED: Final = b"no deep quote was asked for in this launch"


class Mailbox:
    """The mailbox of one vTPM; `write`, `read` and `shutdown` take the guest's commands."""

    def __init__(
        self, engine: Engine, auth: Secret, certificate: AkCertificate, make_answer: MakeAnswer
    ) -> None:
        self._engine = engine
        self._auth = auth
        self._certificate = certificate
        self._make_answer = make_answer
        self._shown = b""  # the certificate that the guest can read
        self._orderly = False

    def clear(self) -> None:
        """Take the last launch's answer and certificate away."""
        self._put_answer(frame_answer(NOT_ASKED, Rc.RETRY))
        self._put_certificate()

    def write(self, command: bytes) -> bytes | memoryview:
        """Execute NV_Write; if it was a request, refresh the answer before responding."""
        answer = self._engine.answer(command)
        ours = command[INDEX_FIELD] == MAILBOX_REQUEST.to_bytes(4)
        if not ours or answer[CODE_FIELD] != SUCCEEDED:
            return answer
        kept = bytes(answer)
        try:
            self._put_answer(self._make_answer(self._read_request()))
        except CommandFailed as failure:  # no session left, say: the guest's own doing
            kept = tpm.response(failure.rc)
        self._need_no_sync()
        return kept

    def read(self, command: bytes) -> bytes | memoryview:
        """Execute NV_Read; what begins to read the AK's certificate finds one that is in force."""
        begins = command.endswith(BEGINNING)
        if begins and int.from_bytes(command[INDEX_FIELD]) in (AK_CERTIFICATE, AK_ISSUER):
            self._certificate.refresh()
            if self._certificate.certificate != self._shown:
                with contextlib.suppress(CommandFailed):  # no session left: the old one is there
                    self._put_certificate()
                self._need_no_sync()
        return self._engine.answer(command)

    def shutdown(self, command: bytes) -> bytes | memoryview:
        """Execute Shutdown, and take note: what is written next is not the mailbox alone."""
        self._orderly = True
        return self._engine.answer(command)

    def _read_request(self) -> bytes:
        reading = tpm.nv_read(MAILBOX_REQUEST, MAILBOX_REQUEST, REQUEST_SIZE, 0, tpm.password())
        return Cursor(self._engine.run(reading).parameters, "NV_Read response").sized("data")

    def _need_no_sync(self) -> None:
        """Have no state saved for what was written here.

        After an orderly Shutdown, this write may be what makes the state unorderly, and then it
        must be saved: orderly NV counters depend on that.
        """
        self._engine.changed = self._engine.changed and self._orderly
        self._orderly = False

    def _put_certificate(self) -> None:
        with self._policy_session() as session:
            for index, der in (
                (AK_CERTIFICATE, self._certificate.certificate),
                (AK_ISSUER, self._certificate.issuer),
            ):
                padded = der.ljust(CERTIFICATE_INDEX_SIZE, b"\0")
                write_index(self._engine, index, padded, lambda: self._authorize(session))
        self._shown = self._certificate.certificate

    def _put_answer(self, framed: bytes) -> None:
        with self._policy_session() as session:
            for number, index in enumerate(MAILBOX_ANSWERS):
                start = number * ANSWER_INDEX_SIZE
                part = framed[start : start + ANSWER_INDEX_SIZE]
                write_index(self._engine, index, part, lambda: self._authorize(session))

    def _authorize(self, session: int) -> bytes:
        self._engine.run(tpm.policy_secret(MAILBOX_KEY, self._auth.reveal(), session))
        return tpm.policy(session)

    @contextmanager
    def _policy_session(self) -> Iterator[int]:
        with session_slot(self._engine):
            session = self._engine.run(tpm.start_policy_session(), with_handle=True).handle
            try:
                yield session
            finally:
                self._engine.run(tpm.flush_context(session))
