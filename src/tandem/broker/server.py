"""The broker's sockets: who connects, what they send whole, and one loop that serves them in turn.

Nothing here waits for a client: one that reads no answers, or sends more than one command at a time
can be long, is dropped.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tandem.broker.broker import Broker
from tandem.broker.channel import ManagerGone
from tandem.broker.client import Client
from tandem.broker.complaints import Complaints
from tandem.broker.dialects import Dialect, End, Reply, TpmCommand
from tandem.broker.figures import Figures
from tandem.broker.scheduler import Scheduler
from tandem.broker.seats import Seat, SharedSeats
from tandem.broker.watch import Watch
from tandem.errors import UntrustedInput
from tandem.systemd import Supervision
from tandem.wire.broker_rights import RightsFile
from tandem.wire.tpm_commands import response

NO_TAG: Final = bytes(2)  # no TPM command of any version begins so
PIECE: Final = 8192
MOST_UNREAD: Final = 2 * 4096  # bytes of a client that waits for its answer
MOST_UNSENT: Final = 64 * 1024
MOST_PEERS: Final = 256
MOST_OF_ONE: Final = 96  # of those, of one user
ROOTS_OWN: Final = 32  # of those, that others together leave for root
TPM12_TAGS: Final = (0x00C1, 0x00C2, 0x00C3)  # TPM_TAG_RQU_COMMAND and its kin (TPM 1.2 Part 2, 6)
TPM12_BADTAG: Final = bytes.fromhex("00c40000000a0000001e")  # TPM_TAG_RSP_COMMAND, TPM_BADTAG
TPM12_HINT: Final = "TPM 1.2 commands (TrouSerS) do not reach this host's TPM 2.0: use tpm2-tools"
COMMAND_SIZE: Final = 0x000B0142  # TPM_RC_COMMAND_SIZE, of a resource manager


@dataclass(frozen=True, kw_only=True)
class Door:
    """A listening socket, and how those who come by it are known and spoken with."""

    listening: socket.socket
    dialect: Dialect
    framed: Dialect | None = None  # spoken instead by who begins with NO_TAG
    identify: Callable[[socket.socket], int | None]
    own_seat: bool = True  # False: the user's programs share one
    commands: bool = True  # False: no TPM command arrives here


@dataclass(eq=False)
class Peer:
    """One accepted connection."""

    sock: socket.socket
    uid: int
    door: Door
    dialect: Dialect
    seat: Seat | None = None
    unread: bytes = b""
    unsent: bytes = b""
    spoke: bool = False
    waits: bool = False  # for the answer to a command


class Server:
    """Serves every door until it is told to end or the Manager is gone."""

    def __init__(
        self,
        broker: Broker,
        scheduler: Scheduler,
        rights: RightsFile,
        complaints: Complaints,
        figures: Figures,
        supervision: Supervision,
    ) -> None:
        self._broker = broker
        self._scheduler = scheduler
        self._rights = rights
        self._complaints = complaints
        self._figures = figures
        self._supervision = supervision
        self._shared = SharedSeats(broker, scheduler, time.monotonic)
        self._watch = Watch()
        self._peers: set[Peer] = set()
        self._running = True

    def add(self, door: Door) -> None:
        """Let clients in by a door."""
        door.listening.setblocking(False)
        self._watch.add(door.listening, lambda *_: self._accept(door))

    def serve(self, end: socket.socket, manager: socket.socket) -> None:
        """Serve until something can be read from `end`; `manager` is silent between commands."""
        self._watch.add(end, self._stop)
        self._watch.add(manager, _manager_gone)
        while self._running:
            self.take_turn()
        self._watch.close()
        self._figures.write()

    def take_turn(self, *, wait: bool = True) -> None:
        """Wait for something to do, where told to; take what came, and run one command."""
        self._watch.take(self._sooner() if wait else 0.0)
        self._scheduler.step()
        self._supervision.live()

    def _sooner(self) -> float | None:
        """Give the seconds until there is something to do, whatever clients do; None: nothing."""
        times = (
            self._scheduler.delay(),
            self._shared.expire(),
            self._figures.write_when_due(),
            self._supervision.seconds_left(),
        )
        return max(0.0, min(due)) if (due := [each for each in times if each is not None]) else None

    def _stop(self, *_: bool) -> None:
        self._running = False

    def _accept(self, door: Door) -> None:
        try:
            sock, _ = door.listening.accept()
        except (BlockingIOError, ConnectionError):
            return  # whoever it was has left
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = self._peer(sock, door)
        if peer is None:
            sock.close()
            return
        self._peers.add(peer)
        self._figures.connected(len(self._peers))
        self._watch.add(sock, partial(self._serve_peer, peer))

    def _peer(self, sock: socket.socket, door: Door) -> Peer | None:
        """Make the peer, where its user may connect and has not too many connections."""
        try:
            uid = door.identify(sock)
        except OSError:
            return None  # gone already
        rights = None if uid is None else self._rights.of(uid)
        if uid is None or rights is None:
            self._complaints.warn("client.refused", uid=uid)
            return None
        most = MOST_PEERS - ROOTS_OWN if uid else MOST_PEERS
        if len(self._peers) >= most or self._count(uid) >= MOST_OF_ONE:
            self._complaints.warn("client.too-many", uid=uid, connections=len(self._peers))
            return None
        client = Client(uid=uid, rights=rights)
        match door:
            case Door(commands=False):
                seat = None
            case Door(own_seat=True):
                seat = Seat(self._broker.connect(client), self._scheduler)
            case _:
                seat = self._shared.take(client)
        return Peer(sock, uid, door, door.dialect, seat)

    def _count(self, uid: int) -> int:
        return Counter(peer.uid for peer in self._peers)[uid]

    def _serve_peer(self, peer: Peer, readable: bool, writable: bool) -> None:
        try:
            if readable:
                self._receive(peer)
            if writable and peer in self._peers:
                self._send(peer, b"")
        except UntrustedInput as error:
            self._complaints.warn("client.hostile", uid=peer.uid, **error.as_record())
            self._send(peer, peer.dialect.frame(response(COMMAND_SIZE)))
            self._drop(peer)

    def _receive(self, peer: Peer) -> None:
        """Take what the peer sent; the rest of a frame that came in parts is there as a rule."""
        self._take(peer)
        if peer.unread and not peer.waits:
            if peer.sock.family == socket.AF_INET:
                _acknowledge(peer.sock)
            self._take(peer)

    def _take(self, peer: Peer) -> None:
        try:
            more = peer.sock.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        peer.unread += more
        if not peer.spoke:
            _listen_to(peer)
        if not more or len(peer.unread) > MOST_UNREAD:
            self._drop(peer)
        else:
            self._advance(peer)

    def _advance(self, peer: Peer) -> None:
        """Carry out what is whole, up to a command that has to be waited for."""
        while peer.unread and not peer.waits:
            parsed = peer.dialect.parse(peer.unread)
            if parsed is None:
                return
            request, size = parsed
            peer.unread = peer.unread[size:]
            match request:
                case TpmCommand(data=command) if peer.seat is not None:
                    self._submit(peer, peer.seat, command)
                case Reply(data=reply):
                    self._send(peer, reply)
                case TpmCommand() | End():
                    self._drop(peer)

    def _submit(self, peer: Peer, seat: Seat, command: bytes) -> None:
        if int.from_bytes(command[:2]) in TPM12_TAGS:
            self._complaints.warn("tpm12.refused", uid=peer.uid, hint=TPM12_HINT)
            self._send(peer, peer.dialect.frame(TPM12_BADTAG))
            return
        peer.waits = True
        seat.submit(peer, command, partial(self._answer, peer, command))

    def _answer(self, peer: Peer, command: bytes, answer: bytes) -> None:
        self._figures.answered(command, answer)
        if peer not in self._peers:
            return  # it left a seat that others have too
        peer.waits = False
        self._send(peer, peer.dialect.frame(answer))
        try:
            self._advance(peer)
        except UntrustedInput as error:
            self._complaints.warn("client.hostile", uid=peer.uid, **error.as_record())
            self._drop(peer)

    def _send(self, peer: Peer, data: bytes) -> None:
        """Send what the peer takes at once, and keep the rest for later."""
        unsent = peer.unsent + data
        try:
            sent = peer.sock.send(unsent) if unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(peer)
            return
        if sent == len(unsent) and not peer.unsent:
            return  # as nearly always
        peer.unsent = unsent[sent:]
        if len(peer.unsent) > MOST_UNSENT:
            self._drop(peer)
        else:
            self._watch.also_writable(peer.sock, bool(peer.unsent))

    def _drop(self, peer: Peer) -> None:
        if peer not in self._peers:
            return
        self._peers.remove(peer)
        peer.unread = b""
        self._figures.connected(len(self._peers))
        self._watch.remove(peer.sock)
        peer.sock.close()
        if peer.seat is None:
            return
        if peer.door.own_seat:
            peer.seat.close()
        else:
            peer.seat.withdraw(peer)


def _acknowledge(sock: socket.socket) -> None:
    """Acknowledge part of a frame at once.

    Libtss2 writes mssim's frames in two parts, and its kernel keeps the second back until the first
    is acknowledged, which otherwise takes 40 ms (tcp(7)).  On loopback the second part has come
    when this returns.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _manager_gone(*_: bool) -> None:
    raise ManagerGone


def _listen_to(peer: Peer) -> None:
    """Know by its first octets which dialect a peer speaks."""
    peer.spoke = len(peer.unread) >= len(NO_TAG)
    if peer.door.framed is not None and peer.unread.startswith(NO_TAG):
        peer.dialect = peer.door.framed
