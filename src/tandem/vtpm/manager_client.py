"""The vTPM's side of its key channel: holding it is the vTPM's identity, for this launch."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from tandem.channel import Channel, Closed, expect
from tandem.errors import HostError
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    AkRenewed,
    AskDeepQuote,
    CertifyEks,
    CommitState,
    DeepQuoted,
    EkCertificates,
    Hello,
    Prepare,
    Prepared,
    RenewAk,
    StateCommitted,
    Welcome,
)
from tandem.wire.messages import Message

Answer = TypeVar("Answer")
Awaited = Callable[[], Answer]  # waits for an answer that was asked for, and gives it
GONE_HINT: Final = "start the Manager, then the guest again"


class ManagerClient:
    """One launch's conversation with the Manager; a thread at a time.

    What is `Awaited` was asked for already: there is other work to do while the Manager answers.
    Answers come, and are to be awaited, in the order of the questions.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._channel = Channel(sock, sends=VTPM_REQUESTS, receives=VTPM_ANSWERS)

    def hello(self) -> Awaited[Welcome]:
        """Learn who this vTPM is, and its key."""
        return self._ask(Hello(), Welcome)

    def certify(self, rsa: bytes, ecc: bytes) -> Awaited[EkCertificates]:
        """Get the certificates of endorsement keys just made (TPMT_PUBLIC)."""
        return self._ask(CertifyEks(rsa=rsa, ecc=ecc), EkCertificates)

    def prepare(
        self, *, ek: bytes, ak: bytes, reset_count: int, restart_count: int
    ) -> Awaited[Prepared]:
        """Complete the pair record with the counts that the guest's launch will have."""
        request = Prepare(ek=ek, ak=ak, reset_count=reset_count, restart_count=restart_count)
        return self._ask(request, Prepared)

    def renew_ak(self) -> AkRenewed:
        """Get another certificate of the AK for this launch."""
        return self._ask(RenewAk(), AkRenewed)()

    def commit(self, version: int, digest: bytes) -> Awaited[None]:
        """Have the newest state recorded, so that it survives power loss."""
        answer = self._ask(CommitState(version=version, digest=digest), StateCommitted)

        def wait() -> None:
            committed = answer()
            if committed.version != version:
                raise HostError(
                    "TDM-STATE-COMMIT-MISMATCH",
                    f"the Manager recorded version {committed.version} of the state, not {version}",
                    hint="restart the host's services: one of them is of another version",
                )

        return wait

    def deep_quote(self, vtpm_quote_digest: bytes) -> DeepQuoted:
        """Get the Manager's half of a deep quote; this waits for the pTPM."""
        return self._ask(AskDeepQuote(vtpm_quote_digest=vtpm_quote_digest), DeepQuoted)()

    def _ask(self, message: Message, answer: type[Answer]) -> Awaited[Answer]:
        with _hanging_up():
            self._channel.send(message)
        return lambda: self._receive(answer)

    def _receive(self, answer: type[Answer]) -> Answer:
        with _hanging_up():
            reply, _ = self._channel.receive()
        return expect(reply, answer)


@contextmanager
def _hanging_up() -> Iterator[None]:
    try:
        yield
    except Closed as error:
        raise HostError(
            "TDM-MANAGER-GONE", "the Manager closed the vTPM's channel", hint=GONE_HINT
        ) from error
