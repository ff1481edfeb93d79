"""The Manager's loop in a thread of the test, over software keys."""

from __future__ import annotations

import io
import socket
import threading
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from tandem.channel import Channel, expect
from tandem.log import Log
from tandem.manager.pairs import Pairs
from tandem.manager.rights import Rights
from tandem.manager.service import Service
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    CertifyEks,
    DeepQuoted,
    EkCertificates,
    Hello,
    OpenPair,
    PairOpened,
    Prepare,
    Prepared,
    Welcome,
)
from tests.unit.manager.software_host import NOW, ak, ecc_ek, open_pair, rsa_ek, software_host

Answer = TypeVar("Answer")
SECONDS = 10.0


class RunningService:
    """Serves until `close`; whoever connects is root, for the test is."""

    def __init__(self, directory: Path, approver: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._approver = approver
        self.printed = io.StringIO()
        self._directory = directory
        self._path = str(directory / "manager.sock")
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(self._path)
        self._listening.listen()
        self._end, self._told = socket.socketpair()
        self._made = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._made.wait(SECONDS)

    def _serve(self) -> None:
        """Make and serve in one thread: the store's connection belongs to it."""
        self.host, self.ptpm = software_host(self._directory, self._approver)
        pairs = Pairs(self.host, lambda: NOW)
        log = Log("manager", self.printed)
        self.service = Service(self.host, pairs, self._listening, log, Rights())
        self._made.set()
        self.service.serve(self._told)

    def connect(self) -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self._path)
        sock.settimeout(SECONDS)
        return Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)

    def open_pair(self, builder: Channel, asked: OpenPair) -> tuple[PairOpened, Channel]:
        builder.send(asked)
        message, descriptors = builder.receive_any()
        opened = expect(message, PairOpened)
        [descriptor] = descriptors
        sock = socket.socket(fileno=descriptor)
        sock.settimeout(SECONDS)
        return opened, Channel(sock, sends=VTPM_REQUESTS, receives=VTPM_ANSWERS)

    def prepared_vtpm(self, builder: Channel, name: str) -> tuple[Channel, Prepared]:
        """Open a pair and take its vTPM to where it may ask for deep quotes."""
        _, vtpm = self.open_pair(builder, open_pair(name))
        vtpm.ask(Hello(), Welcome)
        ek = rsa_ek()
        vtpm.ask(CertifyEks(rsa=ek, ecc=ecc_ek()), EkCertificates)
        asked = Prepare(ek=ek, ak=ak(), reset_count=1, restart_count=0)
        return vtpm, vtpm.ask(asked, Prepared)

    def quotes(self, vtpms: list[Channel]) -> list[DeepQuoted]:
        return [expect(vtpm.receive()[0], DeepQuoted) for vtpm in vtpms]

    def close(self) -> None:
        self.ptpm.may_quote.set()
        self._end.send(b"\0")
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
