"""What a vTPM asks over its key channel, and who answers it."""

from __future__ import annotations

import time

from tandem.manager.clients import Client, Clients
from tandem.manager.commit_limits import CommitLimits
from tandem.manager.commits import Commits
from tandem.manager.deep_quotes import DeepQuotes
from tandem.manager.pairs import Pair, Pairs
from tandem.manager.room import Room, unexpected
from tandem.values import SHA256_SIZE
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    AskDeepQuote,
    CertifyEks,
    CommitState,
    EkCertificates,
    Hello,
    Prepare,
    Prepared,
    Rejoin,
    Rejoined,
    RenewAk,
    Welcome,
)
from tandem.wire.messages import Message


class VtpmRequests:
    """The handlers of a vTPM's messages; the connection says which vTPM it is."""

    def __init__(
        self,
        pairs: Pairs,
        clients: Clients,
        commits: Commits,
        deep_quotes: DeepQuotes,
        limits: CommitLimits,
    ) -> None:
        self._pairs = pairs
        self._clients = clients
        self._commits = commits
        self._deep_quotes = deep_quotes
        self._limits = limits

    def room(self) -> Room:
        """Give the room in which vTPMs are served."""
        room = Room(sends=VTPM_ANSWERS, receives=VTPM_REQUESTS)
        room.on(Hello, self._hello)
        room.on(CertifyEks, self._certify_eks)
        room.on(Prepare, self._prepare)
        room.on(Rejoin, self._rejoin)
        room.on(RenewAk, self._renew_ak)
        room.on(CommitState, self._commit_state)
        room.on(AskDeepQuote, self._ask_deep_quote)
        return room

    def _hello(self, client: Client, _: Hello) -> Welcome:
        return self._pairs.welcome(_pair(client))

    def _certify_eks(self, client: Client, asked: CertifyEks) -> EkCertificates:
        return self._pairs.certify(_pair(client), asked)

    def _prepare(self, client: Client, asked: Prepare) -> Prepared:
        return self._pairs.prepare(_pair(client), asked)

    def _rejoin(self, client: Client, asked: Rejoin) -> Rejoined:
        return self._pairs.rejoin(_pair(client), asked)

    def _renew_ak(self, client: Client, _: RenewAk) -> None:
        pair = _pair(client)
        self._answer_in_turn(client, pair, self._pairs.renew_ak(pair), may_wait=False)

    def _commit_state(self, client: Client, asked: CommitState) -> None:
        pair = _pair(client)
        committed = self._pairs.commit_state(pair, asked)
        # The first one is the vTPM's identity.
        self._answer_in_turn(client, pair, committed, may_wait=asked.version > 1)

    def _answer_in_turn(
        self, client: Client, pair: Pair, answer: Message, *, may_wait: bool
    ) -> None:
        """Answer once what was staged is durable, and no sooner than the group's rate allows."""
        most = self._pairs.group(pair).commits_most
        until = self._limits.take(pair.group, most, time.monotonic())

        def send() -> None:
            now = time.monotonic()
            self._limits.wait(until, now, lambda: self._clients.answer(client, answer))

        self._commits.answer_after(
            client,
            answer,
            send=send,
            undo=lambda: self._clients.drop(client),
            may_wait=may_wait,
        )

    def _ask_deep_quote(self, client: Client, asked: AskDeepQuote) -> None:
        record = _pair(client).record
        if not record or len(asked.vtpm_quote_digest) != SHA256_SIZE:
            raise unexpected(asked)
        self._deep_quotes.ask(client, record, asked.vtpm_quote_digest)


def _pair(client: Client) -> Pair:
    if client.pair is None:
        raise TypeError("a client of this room has a pair")
    return client.pair
