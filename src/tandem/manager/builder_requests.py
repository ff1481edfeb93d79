"""What the domain builder asks: a pair is opened, closed, and rejoins a Manager started again."""

from __future__ import annotations

from tandem import channel as channels
from tandem.log import Log
from tandem.manager.clients import Client, Clients
from tandem.manager.commits import Commits
from tandem.manager.pairs import Pairs
from tandem.manager.room import Room
from tandem.wire.manager_rpc import (
    Attend,
    Attended,
    ClosePair,
    OpenPair,
    PairClosed,
    RejoinPair,
)


class BuilderRequests:
    """The handlers of the builder's messages, and the vTPMs that came of them."""

    def __init__(
        self, pairs: Pairs, clients: Clients, commits: Commits, vtpms: Room, log: Log
    ) -> None:
        self._pairs = pairs
        self._clients = clients
        self._commits = commits
        self._vtpms = vtpms
        self._log = log
        self._by_pair: dict[bytes, Client] = {}

    def join(self, room: Room) -> None:
        """Answer the builder's messages in `room`."""
        room.on(OpenPair, self._open_pair)
        room.on(ClosePair, self._close_pair)
        room.on(RejoinPair, self._rejoin_pair)
        room.on(Attend, self._attend)

    def left(self, client: Client) -> None:
        """Close the pair of a vTPM whose connection has ended."""
        if client.pair is not None and self._pairs.close(client.pair.pair_id):
            del self._by_pair[client.pair.pair_id]
            self._log.info("pair.closed", pair=client.pair.pair_id, vtpm=client.pair.vtpm)

    def _open_pair(self, client: Client, asked: OpenPair) -> None:
        self._clients.require_room()
        pair, opened = self._pairs.open(asked)
        ours, theirs = channels.pair()
        vtpm = self._clients.add(ours, self._vtpms, pair=pair, key_channel=theirs)
        self._by_pair[pair.pair_id] = vtpm
        self._log.info(
            "pair.opened", pair=pair.pair_id, vtpm=pair.vtpm, launch=opened.launch_number
        )
        self._commits.answer_after(
            client,
            opened,
            send=lambda: self._clients.answer_with_key_channel(client, opened, vtpm),
            undo=lambda: self._clients.drop(vtpm),
        )

    def _rejoin_pair(self, client: Client, asked: RejoinPair) -> None:
        """Make a key channel for a vTPM that is still to prove who it is."""
        self._clients.require_room()
        pair, rejoins = self._pairs.await_rejoin(asked)
        ours, theirs = channels.pair()
        vtpm = self._clients.add(ours, self._vtpms, pair=pair, key_channel=theirs)
        self._by_pair[pair.pair_id] = vtpm
        self._log.info("pair.rejoins", pair=pair.pair_id, vtpm=pair.vtpm)
        self._clients.answer_with_key_channel(client, rejoins, vtpm)

    def _attend(self, _: Client, __: Attend) -> Attended:
        self._pairs.attend()
        self._log.info("builder.attends")
        return Attended()

    def _close_pair(self, _: Client, asked: ClosePair) -> PairClosed:
        vtpm = self._by_pair.get(asked.pair_id)
        if vtpm is not None:
            self._clients.drop(vtpm)
        return PairClosed()
