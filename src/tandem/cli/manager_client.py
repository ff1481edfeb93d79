"""The TPM Manager, asked from the command line."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tandem.channel import Channel, Closed
from tandem.errors import HostError
from tandem.hypervisor.descriptors import connect
from tandem.settings import HostPaths
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    Activate,
    Activated,
    AskExport,
    AskStatus,
    ExportPage,
    HostStatus,
)
from tandem.wire.messages import Message

Answer = TypeVar("Answer")


class ManagerClient:
    """A connection to the Manager of one host."""

    def __init__(self, host: Path) -> None:
        path = HostPaths(host).manager_socket
        try:
            sock = connect(path.parent, path.name, kind=socket.SOCK_SEQPACKET)
        except OSError as error:
            raise HostError(
                "TDM-MANAGER-ABSENT",
                f"the TPM Manager of {host} cannot be asked: {error.strerror}",
                hint="start the host's services with `sudo tandem host up`, and ask as root",
            ) from error
        self._channel = Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def status(self) -> HostStatus:
        """Ask what the host is and does."""
        return self._ask(AskStatus(), HostStatus)

    def export(self) -> bytes:
        """Fetch the host's export (JSON), page by page until it is whole or nothing more comes."""
        export = b""
        while True:
            page = self._ask(AskExport(offset=len(export)), ExportPage)
            export += page.data
            if len(export) >= page.total or not page.data:
                return export

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """Have the pTPM recover a credential."""
        request = Activate(credential_blob=credential_blob, encrypted_secret=encrypted_secret)
        return self._ask(request, Activated).credential

    def _ask(self, message: Message, answer: type[Answer]) -> Answer:
        try:
            return self._channel.ask(message, answer)
        except Closed as error:
            raise HostError(
                "TDM-MANAGER-GONE",
                "the Manager closed the connection",
                hint="look for its end in run/manager.log",
            ) from error
