"""Who is connected: read from in turn, answered, dropped; nobody who reads none holds others up."""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused, TandemError, UntrustedInput
from tandem.log import Log
from tandem.manager.pairs import Pair
from tandem.manager.rights import Peer, Right, Rights, needed, peer_of
from tandem.manager.room import Room
from tandem.wire.messages import Message, failure

DESCRIPTORS_KEPT: Final = 64  # for store, pTPM, and key channels on their way
REFUSED_MOST: Final = 16  # of those, for who is told that the Manager is full
ACCEPTED_MOST: Final = 64  # new connections in one turn
USER_MOST: Final = 16  # connections of one user who is not root
# accept(2), where the system, or this process, has nothing left for one connection more
SHORT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORT_SECONDS: Final = 0.02
STRANGERS: Final = -1  # all users without a right are one

Ready = Callable[[], None]


@dataclass(eq=False)
class Client:
    """A connection; a vTPM's has its pair, the builder's and the command line's have none."""

    channel: Channel
    room: Room
    pair: Pair | None = None
    refusal: TandemError | None = None  # the answer to whatever it sends first, unread
    waits: bool = False  # for an answer; nothing more is read from it before
    key_channel: socket.socket | None = None  # a vTPM's end, until the builder has it
    peer: Peer | None = None  # who connected; None where the Manager made the connection
    rights: frozenset[Right] = frozenset()  # of who connected
    user: int = 0  # whose requests are bounded, STRANGERS for all without a right; 0: nobody's
    read_in: int = 0  # the turn in which it was read from last

    @property
    def connected(self) -> bool:
        """Whether it is still there, as far as anybody knows."""
        return self.channel.fileno() >= 0

    @property
    def vtpm(self) -> str:
        """The vTPM's name; empty for everybody else."""
        return "" if self.pair is None else self.pair.vtpm


class Clients:
    """Every connection of the Manager; `dropped` is told of each that ends."""

    def __init__(self, log: Log, rights: Rights, dropped: Callable[[Client], None]) -> None:
        self._log = log
        self._rights = rights
        self._of_users: Counter[int] = Counter()
        self._strangers: set[int] = set()  # each is logged once, however often it comes
        self._turn = 0
        self.count_refusal: Callable[[str], None] = lambda _: None
        self._dropped = dropped
        self._selector = selectors.DefaultSelector()
        self._held = 0
        self.most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_KEPT

    def watch(self, sock: socket.socket, ready: Ready) -> None:
        """Call `ready` in each turn in which there is something to read from `sock`."""
        self._selector.register(sock, selectors.EVENT_READ, ready)

    def unwatch(self, sock: socket.socket) -> None:
        """Stop to watch a socket; its owner closes it."""
        self._selector.unregister(sock)

    def ready(self, seconds: float | None) -> list[Ready]:
        """Wait for something to do, `seconds` at most; what vTPMs sent comes first.

        So the end of a vTPM is seen before the builder asks for its next launch.
        """
        found = [key.data for key, _ in self._selector.select(seconds)]
        if len(found) > 1:
            found = self._one_of_each_user(found)
            found.sort(key=lambda each: not (isinstance(each, Client) and each.pair))
        return [self._reading(each) if isinstance(each, Client) else each for each in found]

    def close(self) -> None:
        """Let go of the selector; the process ends."""
        self._selector.close()

    @property
    def held(self) -> int:
        """How many connections there are."""
        return self._held

    def accept(self, listening: socket.socket, room: Room) -> None:
        """Take new connections, or have them refused with their first answer."""
        for _ in range(ACCEPTED_MOST):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionError):
                return  # whoever it was has left
            except OSError as error:
                if error.errno not in SHORT:
                    raise
                self._log.warning("clients.short", problem=error.strerror)
                time.sleep(SHORT_SECONDS)  # or the loop would run hot: they wait to be accepted
                return
            peer = peer_of(sock)
            rights = self._rights.of(peer)
            user = peer.uid if rights else STRANGERS
            if self._held >= self.most + REFUSED_MOST or self._of_users[user] >= USER_MOST:
                sock.close()
                continue
            client = self.add(sock, room, refusal=self._refusal(peer, rights))
            client.peer, client.rights, client.user = peer, rights, user
            self._of_users[user] += user != 0

    def add(
        self,
        sock: socket.socket,
        room: Room,
        *,
        pair: Pair | None = None,
        key_channel: socket.socket | None = None,
        refusal: TandemError | None = None,
    ) -> Client:
        """Serve a connection in a room."""
        sock.setblocking(False)
        channel = Channel(sock, sends=room.sends, receives=room.receives)
        client = Client(channel, room, pair=pair, key_channel=key_channel, refusal=refusal)
        self._selector.register(sock, selectors.EVENT_READ, client)
        self._held += 1 if key_channel is None else 2
        return client

    def require_room(self) -> None:
        """Refuse one connection more where the Manager holds as many as it may."""
        if self._held >= self.most:
            raise HostError(
                "TDM-MANAGER-FULL",
                f"the Manager holds {self.most} connections and takes no more",
                hint="stop guests, or raise the limit of open files (ulimit -n)",
            )

    def wait(self, client: Client) -> None:
        """Read nothing more from a client until it has its answer."""
        client.waits = True
        self._selector.unregister(client.channel.sock)

    def answer(self, client: Client, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send an answer; whoever has left, or reads none, is dropped and holds nobody up."""
        if not client.connected:
            return
        try:
            client.channel.send(message, descriptors)
        except (Closed, OSError):
            self.drop(client)
            return
        if client.waits:
            client.waits = False
            self._selector.register(client.channel.sock, selectors.EVENT_READ, client)

    def answer_with_key_channel(self, client: Client, message: Message, vtpm: Client) -> None:
        """Answer the builder, and hand over a vTPM's end of its key channel."""
        if vtpm.key_channel is None:
            raise ValueError("the key channel is handed over once")
        self.answer(client, message, [vtpm.key_channel.fileno()])
        self._close_key_channel(vtpm)

    def drop(self, client: Client) -> None:
        """End a connection, and whatever hangs on it."""
        if not client.connected:
            return
        if not client.waits:
            self._selector.unregister(client.channel.sock)
        _hang_up(client.channel.sock)
        self._held -= 1
        self._of_users[client.user] -= client.user != 0
        self._close_key_channel(client)
        self._dropped(client)

    def _close_key_channel(self, vtpm: Client) -> None:
        if vtpm.key_channel is not None:
            vtpm.key_channel.close()
            vtpm.key_channel = None
            self._held -= 1

    def _reading(self, client: Client) -> Ready:
        return lambda: self._receive(client)

    def _receive(self, client: Client) -> None:
        if not client.connected:
            return  # closed by an earlier message of this turn
        try:
            answer = _handle(client)
        except BlockingIOError:
            return
        except Closed:
            self.drop(client)
        except TandemError as error:
            self._report(client, error)
        else:
            if answer is not None:
                self.answer(client, answer)

    def _report(self, client: Client, error: TandemError) -> None:
        """Tell a client why it is not served; a hostile one, or one too many, loses its place."""
        self.count_refusal(error.code)
        hostile = isinstance(error, UntrustedInput)
        if hostile:
            self._log.warning("client.hostile", vtpm=client.vtpm, **error.as_record())
        self.answer(client, failure(error))
        if hostile or error is client.refusal:
            self.drop(client)

    def _refusal(self, peer: Peer, rights: frozenset[Right]) -> TandemError | None:
        """Say why a new connection is not taken."""
        if not rights:
            if peer.uid not in self._strangers:
                self._strangers.add(peer.uid)
                self._log.warning("client.refused", uid=peer.uid)
            return _not_allowed(peer, "anything")
        try:
            self.require_room()
        except HostError as error:
            return error
        return None

    def _one_of_each_user(self, found: list[Any]) -> list[Any]:
        """Leave one connection of each bounded user: the one that waits for the longest time.

        So whoever asks without end, over many connections, costs one request a turn.
        """
        self._turn += 1
        chosen: dict[int, Client] = {}
        for each in found:
            if isinstance(each, Client) and each.user:
                first = chosen.setdefault(each.user, each)
                if each.read_in < first.read_in:
                    chosen[each.user] = each
        for client in chosen.values():
            client.read_in = self._turn
        return [
            each
            for each in found
            if not isinstance(each, Client) or not each.user or chosen[each.user] is each
        ]


def _not_allowed(peer: Peer, what: str) -> Refused:
    return Refused(
        "TDM-MANAGER-NOT-ALLOWED",
        f"user {peer.uid} may not ask the Manager for {what}",
        hint="ask as root, or give the user that right in manager-clients.toml of the host",
    )


def _handle(client: Client) -> Message | None:
    if client.refusal is not None:
        raise client.refusal
    message, _ = client.channel.receive()
    if client.peer is not None and needed(type(message)) not in client.rights:
        raise _not_allowed(client.peer, type(message).__name__)
    return client.room.handle(client, message)


def _hang_up(sock: socket.socket) -> None:
    """Close a connection so that the last answer still arrives.

    What is left unread at a close makes the kernel report a reset to the other side, before the
    answer that waits there (unix_release_sock in net/unix/af_unix.c).
    """
    sock.shutdown(socket.SHUT_RD)
    with suppress(ConnectionResetError):  # the other side did the same
        while sock.recv(1):
            pass
    sock.close()
