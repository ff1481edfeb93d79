"""What the command line asks about the Manager's secrets: the host's state, a new master key.

The master key is not kept: each request that needs it has the pTPM unseal it again, and so is
refused in a state of the host that was not approved.
"""

from __future__ import annotations

from tandem.errors import UntrustedInput
from tandem.evidence.host_approval import HOST_SUBJECT, Approval, parse_approval, write_approval
from tandem.evidence.host_state import HostState
from tandem.log import Log
from tandem.manager.approvals import choose
from tandem.manager.backup import backup_purpose
from tandem.manager.clients import Client
from tandem.manager.commits import Commits
from tandem.manager.host import Host, open_master
from tandem.manager.identity import derive, read_identity
from tandem.manager.leftovers import Leftovers
from tandem.manager.records import DEFAULT_GROUP
from tandem.manager.room import Room
from tandem.manager.rotation import next_terms, renew
from tandem.manager.store import NotAnchored, NotWritten
from tandem.manager.tcti import PtpmFailed
from tandem.values import SHA256_SIZE
from tandem.wire.manager_rpc import (
    AskBackupKey,
    AskHostState,
    BackupKey,
    HostStateRead,
    Rotate,
    Rotated,
)


class SecretsRequests:
    """The handlers of these messages; the identity on disk says which generation is the present."""

    def __init__(self, host: Host, commits: Commits, log: Log, leftovers: Leftovers) -> None:
        self._host = host
        self._leftovers = leftovers
        self._commits = commits
        self._log = log

    def join(self, room: Room) -> None:
        """Answer the command line's messages in `room`."""
        room.on(AskHostState, self._ask_state)
        room.on(Rotate, self._rotate)
        room.on(AskBackupKey, self._ask_backup_key)

    def _ask_state(self, _: Client, __: AskHostState) -> HostStateRead:
        identity = read_identity(self._host.paths.identity)
        state = self._host.ptpm.read_state(identity.registers)
        banks = {bank: dict(values) for bank, values in state.banks.items()}
        return HostStateRead(generation=identity.generation, banks=banks)

    def _rotate(self, _: Client, asked: Rotate) -> Rotated:
        """Renew the master key between two turns: everybody else waits for as long as it takes."""
        host = self._host
        identity = read_identity(host.paths.identity)
        terms = next_terms(identity, identity.approver)
        asked_for = Approval(
            subject=HOST_SUBJECT,
            generation=terms.number,
            state=HostState(banks=asked.banks),
            signature=asked.signature,
        )
        approval = parse_approval(write_approval(asked_for))  # refused as a file would be
        present = host.ptpm.read_state(identity.registers)
        choose([approval], present, "the next master key")
        master = open_master(host.paths, identity, host.ptpm)
        self._commits.settle()
        renewed, recovery = renew(
            host.paths,
            host.ptpm,
            host.store,
            identity=identity,
            master=master,
            terms=terms,
            approvals=[approval],
        )
        self._log.info("secrets.renewed", generation=renewed.generation)
        self._leftovers.of(renewed)
        self._renew_groups(renewed.generation)
        return Rotated(generation=renewed.generation, recovery_key=recovery.reveal())

    def _renew_groups(self, generation: int) -> None:
        """Have the host's own groups follow; where that fails now, the next start does it."""
        try:
            self._host.groups.follow(generation)
            self._commits.settle()
        except (NotAnchored, NotWritten, PtpmFailed) as error:  # the next commit ends the Manager
            self._host.groups.close(DEFAULT_GROUP)
            self._log.warning("secrets.groups-not-renewed", **error.as_record())

    def _ask_backup_key(self, _: Client, asked: AskBackupKey) -> BackupKey:
        if len(asked.salt) != SHA256_SIZE:
            raise UntrustedInput(
                "TDM-BACKUP-SALT-BAD",
                f"a salt of {len(asked.salt)} bytes, not {SHA256_SIZE}",
                hint="both sides must be of one version: restart the host's services",
                offset=0,
            )
        identity = read_identity(self._host.paths.identity)
        master = open_master(self._host.paths, identity, self._host.ptpm)
        self._log.info("secrets.backup-key-derived", generation=identity.generation)
        return BackupKey(key=derive(master, backup_purpose(asked.salt)).reveal())
