"""What the command line asks about the host: its status, its export, and proof of its pTPM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tandem.errors import Refused
from tandem.evidence.enrolment import enrolment_data
from tandem.evidence.host_export import write_host_export
from tandem.evidence.tpm_types import parse_public
from tandem.manager.clients import Client
from tandem.manager.host import Host
from tandem.manager.pacing import Wear
from tandem.manager.room import Room
from tandem.manager.served_logs import fixed_log, growing_log
from tandem.wire.manager_rpc import (
    Activate,
    Activated,
    AskExport,
    AskHostLog,
    AskStatus,
    ExportPage,
    HostLogPage,
    HostStatus,
)

EXPORT_PAGE: Final = 3000
EVENTS: Final = "events"  # the logs of a host, as AskHostLog names them
IMA: Final = "ima"


class HostRequests:
    """The handlers of the command line's messages; `status` knows what the service counts."""

    def __init__(self, host: Host, status: Callable[[], HostStatus]) -> None:
        self._host = host
        self._status = status
        self._logs = {EVENTS: fixed_log(host.log)}
        if host.ima_list is not None:
            self._logs[IMA] = growing_log(host.ima_list)

    def join(self, room: Room) -> None:
        """Answer the command line's messages in `room`."""
        room.on(AskStatus, lambda _client, _asked: self._status())
        room.on(AskExport, self._ask_export)
        room.on(AskHostLog, self._ask_log)
        room.on(Activate, self._activate)

    def _ask_export(self, _: Client, asked: AskExport) -> ExportPage:
        export = self._export()
        page = export[asked.offset : asked.offset + EXPORT_PAGE]
        return ExportPage(total=len(export), data=page)

    def _ask_log(self, _: Client, asked: AskHostLog) -> HostLogPage:
        if asked.log not in self._logs:
            raise Refused(
                "TDM-HOST-LOG-ABSENT",
                f"this host has no log {asked.log[:40]!a}; it has {', '.join(self._logs)}",
                hint="an IMA list is there where the kernel measures into the host's own TPM "
                "(ima_policy= on its command line)",
            )
        return self._logs[asked.log].page(asked.offset)

    def _activate(self, _: Client, asked: Activate) -> Activated:
        credential = self._host.ptpm.activate_credential(
            self._host.ek_kind, asked.credential_blob, asked.encrypted_secret
        )
        qualifying_data = enrolment_data(credential, self._export())
        quote = self._host.ptpm.quote(qualifying_data, self._host.quoted_registers)
        return Activated(
            credential=credential,
            attest=quote.attest,
            signature=quote.signature,
            pcrs=dict(quote.pcrs),
        )

    def _export(self) -> bytes:
        groups = self._host.groups
        return write_host_export(
            ptpm=self._host.identity.ptpm,
            hardware_root=self._host.hardware_root,
            ek=self._host.record.ek,
            ek_certificate=self._host.record.ek_certificate,
            ek_chain=self._host.record.ek_chain,
            ak=self._host.ptpm.ak_public,
            authorities={name: groups.record(name).ca_certificate for name in groups.names()},
            epoch=self._host.record.epoch,
        )


def host_status(
    host: Host, *, deep_quotes: int, ptpm_quotes: int, open_pairs: int, wear: Wear
) -> HostStatus:
    """Say what the host is, and what it did since its start."""
    return HostStatus(
        ptpm=host.identity.ptpm,
        hardware_root=host.hardware_root,
        host_ak_name=parse_public(host.ptpm.ak_public).name,
        store_commits=host.store.commits,
        deep_quotes=deep_quotes,
        ptpm_quotes=ptpm_quotes,
        open_pairs=open_pairs,
        store_version=host.store.number,
        rollback_window=host.record.rollback_window,
        nv_writes=wear.writes,
        nv_budget=wear.budget,
        nv_writes_a_day=wear.a_day,
        nv_days_left=wear.days_left,
        nv_over_pace=wear.over_pace,
    )
