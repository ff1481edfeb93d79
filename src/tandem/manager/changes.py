"""What an administrator does to a host that does not run: approve a state, back it up, recover it.

Each is called in the Manager's place (`offline`), and gives what the command line then shows.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress

from tandem.errors import HostError
from tandem.evidence.host_approval import Approval, PrivateKey, PublicKey
from tandem.evidence.host_state import refuse_blank
from tandem.manager.approvals import check_for, install
from tandem.manager.backup import backup_purpose
from tandem.manager.host import open_master
from tandem.manager.identity import (
    Identity,
    check_proof,
    derive,
    derived_auths,
    read_identity,
)
from tandem.manager.offline import Answer
from tandem.manager.ptpm import Ptpm
from tandem.manager.recovery import shown, unwrap
from tandem.manager.rotation import next_terms, renew, tidy
from tandem.manager.store import Store
from tandem.manager.tcti import PtpmFailed
from tandem.settings import UID_BASE, HostPaths
from tandem.values import Secret


def bring_in(paths: HostPaths, approval: Approval) -> Answer:
    """Install an approval that counts for this host as it is now."""
    check_for(approval, read_identity(paths.identity))
    return {"approval": str(install(paths.approvals, approval, UID_BASE))}


def backup_key(paths: HostPaths, ptpm: Ptpm, salt: bytes) -> Answer:
    """Derive the key of the backup with this salt, in an approved state of the host."""
    master = open_master(paths, read_identity(paths.identity), ptpm)
    return {"key": derive(master, backup_purpose(salt)).reveal()}


def store_snapshot(paths: HostPaths) -> Answer:
    """Give the store's database as of one moment, whatever a Manager writes meanwhile."""
    path = paths.manager / read_identity(paths.identity).store
    try:
        with (
            closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as source,
            closing(sqlite3.connect(":memory:")) as copy,
        ):
            source.backup(copy)
            return {"store": copy.serialize()}
    except sqlite3.Error as error:
        raise HostError(
            "TDM-BACKUP-STORE",
            f"the store {path} cannot be copied: {error}",
            hint="see that the host starts; `tandem host up` names what is wrong with its store",
        ) from error


def recover(
    paths: HostPaths,
    ptpm: Ptpm,
    recovery_key: Secret,
    approval_key: PrivateKey | PublicKey,
) -> Answer:
    """Open the newest store by the recovery key, and seal it for the present state of the host.

    The store must be the newest one: a recovery undoes nothing.
    """
    identity = read_identity(paths.identity)
    master = recovered_master(identity, recovery_key)
    ptpm.open_root(identity.root_name)
    present = ptpm.read_state(identity.registers)
    refuse_blank(present)
    ptpm.use_keys(identity.slot, identity.ak, derived_auths(master))
    store = Store.load(paths.manager / identity.store, master, ptpm)
    terms = next_terms(identity, approval_key)
    renewed, recovery = renew(
        paths,
        ptpm,
        store,
        identity=identity,
        master=master,
        terms=terms,
        approvals=terms.approvals(present),
    )
    store.close()
    with suppress(PtpmFailed, OSError):  # the next start does it: the new generation stands
        tidy(paths, ptpm, renewed)
    return {"generation": renewed.generation, "recovery_key": shown(recovery)}


def recovered_master(identity: Identity, recovery_key: Secret) -> Secret:
    """Give the master key of an identity that was written by whoever had it."""
    master = unwrap(identity, recovery_key)
    check_proof(identity, master)
    return master
