"""The Manager's loop: take every message that waits, then do the slow things once for all of them.

A turn takes one message of each connection that has one.  What changes records is committed
together (one transaction, one extend of the pTPM) and answered after that; what wants a deep quote
shares one pTPM quote.  A lone request waits for nobody.
"""

from __future__ import annotations

import resource
import selectors
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tandem import channel as channels
from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused, TandemError, UntrustedInput
from tandem.evidence.host_export import write_host_export
from tandem.evidence.tpm_types import parse_public
from tandem.log import Log
from tandem.manager import records
from tandem.manager.deep_quotes import quote_batch
from tandem.manager.host import Host
from tandem.manager.pairs import Pair, Pairs
from tandem.manager.store import NotWritten
from tandem.values import SHA256_SIZE
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    Activate,
    Activated,
    AskDeepQuote,
    AskExport,
    AskStatus,
    CertifyEks,
    ClosePair,
    CommitState,
    ExportPage,
    Hello,
    HostStatus,
    OpenPair,
    PairClosed,
    PairOpened,
    Prepare,
)
from tandem.wire.messages import Message, failure

EXPORT_PAGE: Final = 3000
DESCRIPTORS_KEPT: Final = 64  # for store, pTPM, and key channels on their way
REFUSED_MOST: Final = 16  # of those, for who is told that the Manager is full
BATCH_MOST: Final = 1024  # keeps a path, and so an answer, within one message
_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(eq=False)
class Client:
    """A connection; a vTPM's has its pair, the builder's and the command line's have none."""

    channel: Channel
    pair: Pair | None = None
    refusal: TandemError | None = None  # the answer to whatever it asks first


@dataclass
class Turn:
    """What waits for the end of one turn."""

    after_commit: list[tuple[Client, Message]] = field(default_factory=list)
    quotes: list[tuple[Client, AskDeepQuote]] = field(default_factory=list)


class Service:
    """Serves builder, command line and vTPMs from one open host."""

    def __init__(self, host: Host, pairs: Pairs, listening: socket.socket, log: Log) -> None:
        self._host = host
        self._pairs = pairs
        self._log = log
        self._listening = listening
        self._listening.setblocking(False)
        self._clients_most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_KEPT
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ, None)
        self._vtpm_ends: dict[bytes, socket.socket] = {}
        self._clients: dict[bytes, Client] = {}  # of vTPMs, by pair id
        self._deep_quotes = 0
        self._ptpm_quotes = 0
        self._running = True

    def serve(self, end: socket.socket) -> None:
        """Serve until something is written to the other side of `end`."""
        self._selector.register(end, selectors.EVENT_READ, self._stop)
        while self._running:
            self._take_turn()
        self._selector.close()

    def _stop(self) -> None:
        self._running = False

    def _take_turn(self) -> None:
        turn = Turn()
        ready = [key.data for key, _ in self._selector.select()]
        for waiting in sorted(ready, key=_comes_later):
            match waiting:
                case None:
                    self._accept()
                case Client() as client if client.channel.sock.fileno() >= 0:
                    self._receive(client, turn)
                case Client():
                    pass  # closed by an earlier message of this turn
                case stop:
                    stop()
        self._finish(turn)

    def _accept(self) -> None:
        try:
            sock, _ = self._listening.accept()
        except (BlockingIOError, ConnectionError):
            return  # whoever it was has left
        sock.setblocking(False)
        if self._held() >= self._clients_most + REFUSED_MOST:
            sock.close()
            return
        channel = Channel(sock, sends=BUILDER_ANSWERS, receives=BUILDER_REQUESTS)
        client = Client(channel, refusal=self._refusal(sock))
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _refusal(self, sock: socket.socket) -> TandemError | None:
        """Say why a new connection is not taken."""
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
        if uid != 0:
            self._log.warning("client.refused", uid=uid)
            return Refused(
                "TDM-MANAGER-ROOT-ONLY", "the Manager answers root alone", hint="ask as root"
            )
        return self._full() if self._held() >= self._clients_most else None

    def _held(self) -> int:
        """Give how many descriptors are in use for others."""
        return len(self._selector.get_map()) + len(self._vtpm_ends)

    def _full(self) -> HostError:
        return HostError(
            "TDM-MANAGER-FULL",
            f"the Manager holds {self._clients_most} connections and takes no more",
            hint="stop guests, or raise the limit of open files (ulimit -n)",
        )

    def _receive(self, client: Client, turn: Turn) -> None:
        try:
            message, _ = client.channel.receive()
            self._handle(client, message, turn)
        except BlockingIOError:
            return
        except Closed:
            self._drop(client)
        except UntrustedInput as error:
            self._log.warning("client.hostile", vtpm=_vtpm_of(client), **error.as_record())
            self._answer(client, failure(error))
            self._drop(client)
        except TandemError as error:
            self._answer(client, failure(error))
            if error is client.refusal:
                self._drop(client)

    def _handle(self, client: Client, message: Message, turn: Turn) -> None:
        if client.refusal is not None:
            raise client.refusal
        if client.pair is None:
            self._handle_request(client, message, turn)
        else:
            self._handle_vtpm(client, client.pair, message, turn)

    def _handle_request(self, client: Client, message: Message, turn: Turn) -> None:
        match message:
            case OpenPair():
                turn.after_commit.append((client, self._open_pair(message)))
            case ClosePair():
                self._close_pair(message.pair_id)
                self._answer(client, PairClosed())
            case AskStatus():
                self._answer(client, self._status())
            case AskExport():
                export = self._export()
                page = export[message.offset : message.offset + EXPORT_PAGE]
                self._answer(client, ExportPage(total=len(export), data=page))
            case Activate():
                credential = self._host.ptpm.activate_credential(
                    self._host.ek_kind, message.credential_blob, message.encrypted_secret
                )
                self._answer(client, Activated(credential=credential))
            case other:
                raise _unexpected(other)

    def _handle_vtpm(self, client: Client, pair: Pair, message: Message, turn: Turn) -> None:
        match message:
            case Hello():
                self._answer(client, self._pairs.welcome(pair))
            case CertifyEks():
                self._answer(client, self._pairs.certify(pair, message))
            case Prepare():
                self._answer(client, self._pairs.prepare(pair, message))
            case CommitState():
                turn.after_commit.append((client, self._pairs.commit_state(pair, message)))
            case AskDeepQuote(vtpm_quote_digest=digest) if (
                pair.record and len(digest) == SHA256_SIZE
            ):
                turn.quotes.append((client, message))
            case other:
                raise _unexpected(other)

    def _open_pair(self, asked: OpenPair) -> PairOpened:
        if self._held() >= self._clients_most:
            raise self._full()
        pair, opened = self._pairs.open(asked)
        ours, theirs = channels.pair()
        ours.setblocking(False)
        vtpm = Client(Channel(ours, sends=VTPM_ANSWERS, receives=VTPM_REQUESTS), pair)
        self._selector.register(ours, selectors.EVENT_READ, vtpm)
        self._vtpm_ends[pair.pair_id] = theirs
        self._clients[pair.pair_id] = vtpm
        self._log.info(
            "pair.opened", pair=pair.pair_id, vtpm=pair.vtpm, launch=opened.launch_number
        )
        return opened

    def _finish(self, turn: Turn) -> None:
        """Commit and quote once for the whole turn, then answer."""
        if self._host.store.dirty:
            try:
                self._host.store.commit()
            except NotWritten as error:
                self._undo(turn, error)
        for client, answer in turn.after_commit:
            if isinstance(answer, PairOpened):
                with self._vtpm_ends.pop(answer.pair_id) as end:
                    self._answer(client, answer, [end.fileno()])
            else:
                self._answer(client, answer)
        for at in range(0, len(turn.quotes), BATCH_MOST):
            batch = turn.quotes[at : at + BATCH_MOST]
            try:
                self._quote(batch)
            except HostError as error:
                self._log.warning("deep-quote.not-made", **error.as_record())
                for client, _ in batch:
                    self._answer(client, failure(error))

    def _undo(self, turn: Turn, error: NotWritten) -> None:
        """End every pair whose change could not be made durable."""
        self._log.warning("store.not-written", **error.as_record())
        for client, answer in turn.after_commit:
            self._answer(client, failure(error))
            if isinstance(answer, PairOpened):
                self._vtpm_ends.pop(answer.pair_id).close()
                self._close_pair(answer.pair_id)
            else:
                self._drop(client)
        turn.after_commit.clear()

    def _quote(self, waiting: list[tuple[Client, AskDeepQuote]]) -> None:
        requests = [
            (client.pair.record, asked.vtpm_quote_digest)
            for client, asked in waiting
            if client.pair is not None
        ]
        registers = self._host.identity.registers
        answers = quote_batch(requests, lambda root: self._host.ptpm.quote(root, registers))
        self._ptpm_quotes += 1
        self._deep_quotes += len(answers)
        for (client, _), answer in zip(waiting, answers, strict=True):
            self._answer(client, answer)

    def _answer(
        self, client: Client, message: Message, descriptors: list[int] | None = None
    ) -> None:
        """Send an answer; whoever has left, or reads none, is dropped and holds nobody up."""
        if client.channel.fileno() < 0:
            return
        try:
            client.channel.send(message, descriptors or [])
        except (Closed, OSError):
            self._drop(client)

    def _close_pair(self, pair_id: bytes) -> None:
        client = self._clients.get(pair_id)
        if client is not None:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if client.channel.sock.fileno() < 0:
            return
        if client.channel.sock in self._selector.get_map():
            self._selector.unregister(client.channel.sock)
        _hang_up(client.channel.sock)
        if client.pair is not None and self._pairs.close(client.pair.pair_id):
            del self._clients[client.pair.pair_id]
            self._log.info("pair.closed", pair=client.pair.pair_id, vtpm=client.pair.vtpm)

    def _status(self) -> HostStatus:
        return HostStatus(
            ptpm=self._host.identity.ptpm,
            hardware_root=self._host.hardware_root,
            host_ak_name=parse_public(self._host.ptpm.ak_public).name,
            store_commits=self._host.store.commits,
            deep_quotes=self._deep_quotes,
            ptpm_quotes=self._ptpm_quotes,
            open_pairs=len(self._pairs),
        )

    def _export(self) -> bytes:
        return write_host_export(
            ptpm=self._host.identity.ptpm,
            hardware_root=self._host.hardware_root,
            ek=self._host.record.ek,
            ek_certificate=self._host.record.ek_certificate,
            ak=self._host.ptpm.ak_public,
            authorities={records.DEFAULT_GROUP: self._host.ca_certificate},
            pcrs=self._host.ptpm.read_pcrs(self._host.identity.registers),
        )


def _comes_later(waiting: object) -> bool:
    """Let the end of a vTPM be seen before the builder asks for its next launch."""
    return not (isinstance(waiting, Client) and waiting.pair)


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


def _vtpm_of(client: Client) -> str:
    return "" if client.pair is None else client.pair.vtpm


def _unexpected(message: Message) -> UntrustedInput:
    return UntrustedInput(
        "TDM-MANAGER-UNEXPECTED",
        f"{type(message).__name__} has no place at this point",
        hint="the sender is broken or hostile: its connection is closed",
        offset=0,
    )
