"""Deep quotes of one batch: one Merkle tree, one pTPM quote, a path for each request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from tandem.errors import HostError
from tandem.evidence.deep_quote import SALT_SIZE, leaf_hash
from tandem.evidence.merkle import tree_paths
from tandem.evidence.pair_record import record_digest
from tandem.log import Log
from tandem.manager.clients import Client, Clients
from tandem.manager.gathering import Gathering
from tandem.manager.ptpm import PtpmQuote
from tandem.wire.manager_rpc import DeepQuoted
from tandem.wire.messages import failure

BATCH_MOST: Final = 1024  # keeps a path, and so an answer, within one message
Quote = Callable[[bytes], PtpmQuote]


class DeepQuotes:
    """Requests that wait for a pTPM quote, which they share."""

    def __init__(self, quote: Quote, clients: Clients, log: Log) -> None:
        self._quote = quote
        self._clients = clients
        self._log = log
        self._gathering = Gathering(BATCH_MOST)
        self._waiting: list[tuple[Client, bytes, bytes]] = []
        self.answered = 0
        self.ptpm_quotes = 0
        self.observe_batch: Callable[[int], None] = lambda _: None

    def ask(self, client: Client, record: bytes, vtpm_quote_digest: bytes) -> None:
        """Answer `client` with the next quote of the pTPM."""
        self._clients.wait(client)
        self._waiting.append((client, record, vtpm_quote_digest))

    def left(self, client: Client) -> None:
        """Expect nothing more from a client that is gone."""
        self._gathering.left(client)

    def due(self, now: float) -> float | None:
        """Give when `run` has something to do: a time of the monotonic clock, None for never."""
        return self._gathering.due(self._members(), now)

    def run(self, now: float) -> None:
        """Quote for those who wait, in the order in which they came, and answer."""
        self._gathering.look(self._members())
        due = self.due(now)
        if due is None or due > now:
            return
        batch, self._waiting = self._waiting[:BATCH_MOST], self._waiting[BATCH_MOST:]
        self._answer(batch)
        after = time.monotonic()
        self._gathering.served([client for client, _, _ in batch], after, after - now)

    def _members(self) -> list[Client]:
        return [client for client, _, _ in self._waiting]

    def _answer(self, batch: list[tuple[Client, bytes, bytes]]) -> None:
        try:
            answers = quote_batch([(record, asked) for _, record, asked in batch], self._quote)
        except HostError as error:
            self._log.warning("deep-quote.not-made", **error.as_record())
            for client, _, _ in batch:
                self._clients.answer(client, failure(error))
            return
        self.ptpm_quotes += 1
        self.answered += len(answers)
        self.observe_batch(len(answers))
        for (client, _, _), answer in zip(batch, answers, strict=True):
            self._clients.answer(client, answer)


def quote_batch(requests: Sequence[tuple[bytes, bytes]], quote: Quote) -> list[DeepQuoted]:
    """Answer requests (pair record, digest of the vTPM's quote) with one pTPM quote of their root.

    The record is the one that the Manager holds for the connection, never one that a vTPM names.
    """
    salts = [os.urandom(SALT_SIZE) for _ in requests]
    leaves = [
        leaf_hash(salt, record_digest(record), digest)
        for salt, (record, digest) in zip(salts, requests, strict=True)
    ]
    root, paths = tree_paths(leaves)
    quoted = quote(root)
    return [
        DeepQuoted(
            salt=salt,
            leaf_index=index,
            tree_size=len(leaves),
            path=path,
            attest=quoted.attest,
            signature=quoted.signature,
            pcrs=dict(quoted.pcrs),
        )
        for index, (salt, path) in enumerate(zip(salts, paths, strict=True))
    ]
