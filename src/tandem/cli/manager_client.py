"""The TPM Manager, asked from the command line."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TypeVar

from tandem.channel import Channel, Closed
from tandem.cli.connection import Connection
from tandem.errors import HostError
from tandem.evidence.host_approval import Approval
from tandem.hypervisor.descriptors import connect
from tandem.settings import HostPaths
from tandem.values import Secret
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    Activate,
    Activated,
    AskBackupKey,
    AskExport,
    AskHostLog,
    AskHostState,
    AskMetrics,
    AskStatus,
    BackupKey,
    ExportPage,
    HostLogPage,
    HostStateRead,
    HostStatus,
    MetricsPage,
    Rotate,
    Rotated,
)
from tandem.wire.messages import Message

Answer = TypeVar("Answer")


class ManagerClient(Connection):
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
        super().__init__(Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS))

    def status(self) -> HostStatus:
        """Ask what the host is and does."""
        return self.ask(AskStatus(), HostStatus)

    def export(self) -> bytes:
        """Fetch the host's export (JSON), page by page until it is whole or nothing more comes."""
        export = b""
        while True:
            page = self.ask(AskExport(offset=len(export)), ExportPage)
            export += page.data
            if len(export) >= page.total or not page.data:
                return export

    def metrics(self) -> bytes:
        """Fetch the Manager's metrics (JSON)."""
        metrics = b""
        while True:
            page = self.ask(AskMetrics(offset=len(metrics)), MetricsPage)
            metrics += page.data
            if len(metrics) >= page.total or not page.data:
                return metrics

    def host_log(self, log: str, offset: int = 0) -> tuple[bytes, HostLogPage]:
        """Fetch a log ("events", "ima") from `offset` on, and what was said of it meanwhile.

        A log that grows is fetched up to where it ended at the first page, or a little further.
        """
        first = page = self.ask(AskHostLog(log=log, offset=offset), HostLogPage)
        data = page.data
        while page.data and offset + len(data) < first.total:
            page = self.ask(AskHostLog(log=log, offset=offset + len(data)), HostLogPage)
            data += page.data
        return data[: max(0, first.total - offset)], first

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> Activated:
        """Have the pTPM recover a credential, and quote for it."""
        request = Activate(credential_blob=credential_blob, encrypted_secret=encrypted_secret)
        return self.ask(request, Activated)

    def host_state(self) -> HostStateRead:
        """Ask what state the host is in, and for which generation it would be approved."""
        return self.ask(AskHostState(), HostStateRead)

    def rotate(self, approval: Approval) -> Rotated:
        """Have the master key renewed; the approval is of the present state, for the next one."""
        banks = {bank: dict(values) for bank, values in approval.state.banks.items()}
        return self.ask(Rotate(banks=banks, signature=approval.signature), Rotated)

    def backup_key(self, salt: bytes) -> Secret:
        """Have the key of the backup with this salt derived."""
        return Secret(self.ask(AskBackupKey(salt=salt), BackupKey).key)

    def ask(self, message: Message, answer: type[Answer]) -> Answer:
        """Ask, and give the answer; for what has no method of its own here, too."""
        try:
            return self._channel.ask(message, answer)
        except Closed as error:
            raise HostError(
                "TDM-MANAGER-GONE",
                "the Manager closed the connection",
                hint="look for its end in run/manager.log",
            ) from error
