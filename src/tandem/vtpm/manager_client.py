"""The vTPM's side of its key channel: holding it is the vTPM's identity, for this launch.

A Manager that ends takes the channel with it.  A vTPM whose guest runs then waits for the next
Manager, proves on a new channel that it is the same vTPM, and asks again; its guest sees a pause.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from tandem.channel import Channel, Closed, expect
from tandem.errors import HostError, Refused
from tandem.values import Secret
from tandem.vtpm.key_channels import KeyChannel, KeyChannels
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
    Rejoin,
    Rejoined,
    RenewAk,
    StateCommitted,
    Welcome,
)
from tandem.wire.messages import Message
from tandem.wire.rejoin import rejoin_proof

Answer = TypeVar("Answer")
Awaited = Callable[[], Answer]  # waits for an answer that was asked for, and gives it
AWAY_SECONDS: Final = 30.0  # a Manager is started again within; a guest's TPM driver waits longer
GONE_HINT: Final = "start the Manager, then the guest again"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What a vTPM has to show when it rejoins its pair; `newest` is its state acknowledged last."""

    pair_id: bytes
    record: bytes
    ak: bytes
    ticket: Secret
    key: Secret
    newest: Callable[[], tuple[int, bytes]]


class ManagerClient:
    """One launch's conversation with the Manager; a thread at a time.

    What is `Awaited` was asked for already: there is other work to do while the Manager answers.
    Answers come, and are to be awaited, in the order of the questions.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._channel = _channel(sock)
        self._membership: Membership | None = None
        self.key_channels = KeyChannels()  # another thread's to give

    def remember(self, membership: Membership) -> None:
        """Outlive the Manager from here on: one question at a time, each asked again if need be."""
        self._membership = membership

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
        try:
            self._channel.send(message)
        except Closed:
            if self._membership is None:
                raise _gone() from None
            # Whoever waits for the answer finds the channel closed as well.
        return lambda: self._answer_to(message, answer)

    def _answer_to(self, message: Message, answer: type[Answer]) -> Answer:
        deadline: float | None = None
        while True:
            try:
                reply, _ = self._channel.receive()
                return expect(reply, answer)
            except Closed:
                pass
            if deadline is None:  # what a Manager took that lived, a slow pTPM's time, is not away
                deadline = time.monotonic() + AWAY_SECONDS
            reply = self._ask_again(message, deadline)
            if reply is not None:
                return expect(reply, answer)

    def _ask_again(self, message: Message, deadline: float) -> Message | None:
        """Rejoin, then ask once more, unless the question was answered by that already."""
        if self._membership is None:
            raise _gone()
        offered = self.key_channels.take(deadline - time.monotonic())
        if offered is None:
            raise _gone()
        self._channel.close()
        self._channel = _channel(offered.sock)
        try:
            recorded = self._rejoin(offered, self._membership)
            if settled(recorded, self._membership.newest(), message):
                return StateCommitted(version=recorded.state_version)
            self._channel.send(message)
        except Closed:  # that Manager ended, too
            pass
        except Refused:  # it is not this vTPM's Manager, nor will it be
            self._membership = None
            offered.sock.shutdown(socket.SHUT_RDWR)
            raise
        return None

    def _rejoin(self, offered: KeyChannel, membership: Membership) -> Rejoined:
        version, digest = membership.newest()
        proof = rejoin_proof(
            membership.key,
            nonce=offered.nonce,
            pair_id=membership.pair_id,
            state_version=version,
            state_digest=digest,
        )
        request = Rejoin(
            record=membership.record,
            ak=membership.ak,
            ticket=membership.ticket.reveal(),
            state_version=version,
            state_digest=digest,
            proof=proof,
        )
        return self._channel.ask(request, Rejoined)


def settled(recorded: Rejoined, newest: tuple[int, bytes], pending: Message) -> bool:
    """Whether the Manager recorded the state that waits for its answer before it ended.

    Any other state than that one and the newest acknowledged one is refused: the Manager's store is
    an older copy, or somebody else had this vTPM.
    """
    found = recorded.state_version, recorded.state_digest
    if isinstance(pending, CommitState) and found == (pending.version, pending.digest):
        return True
    if found == newest:
        return False
    raise Refused(
        "TDM-STATE-FORKED",
        f"the Manager knows version {found[0]} of the vTPM's state, where {newest[0]} was "
        "acknowledged last",
        hint="put back the Manager's newest store; the guest is ended, and its state stays closed",
    )


def _channel(sock: socket.socket) -> Channel:
    return Channel(sock, sends=VTPM_REQUESTS, receives=VTPM_ANSWERS)


def _gone() -> HostError:
    return HostError("TDM-MANAGER-GONE", "the Manager closed the vTPM's channel", hint=GONE_HINT)
