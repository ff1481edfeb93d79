"""The next generation of the master key: made beside the present one, and switched to by a rename.

A crash before the rename leaves the present generation, after it the next one, whole each time;
what the other left in the pTPM and on disk is taken away by the next start, or the next attempt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tandem.errors import HostError, TandemError
from tandem.evidence.host_approval import Approval, PrivateKey, PublicKey
from tandem.manager.approvals import check_for, install, keep_only
from tandem.manager.generations import HostKeys, Terms, new_master_key, seal_generation
from tandem.manager.identity import Identity, derived_auths, place_identity, sync_directory
from tandem.manager.ptpm import Ptpm
from tandem.manager.store import Store
from tandem.settings import UID_BASE, HostPaths
from tandem.values import Secret

SLOTS: Final = 2
BROUGHT: Final = "restored.sqlite"  # a backup's store while it is brought back
_STORE_FILE: Final = re.compile(
    r"(store(?:\.\d+)?\.sqlite|restored\.sqlite)(?:-wal|-shm|-journal)?"
)


@dataclass(frozen=True, kw_only=True)
class Established:
    """A generation that the host is under now."""

    identity: Identity
    recovery_key: Secret
    store: Store


def next_terms(identity: Identity, approval_key: PrivateKey | PublicKey) -> Terms:
    """Give where the generation after this one stands."""
    return Terms(
        number=identity.generation + 1,
        slot=(identity.slot + 1) % SLOTS,
        epoch=identity.epoch,
        device=identity.ptpm,
        registers=identity.registers,
        approval_key=approval_key,
    )


def renew(
    paths: HostPaths,
    ptpm: Ptpm,
    store: Store,
    *,
    identity: Identity,
    master: Secret,
    terms: Terms,
    approvals: Sequence[Approval],
) -> tuple[Identity, Secret]:
    """Put an open host under a new master key; gives its identity and recovery key.

    `identity` and `master` are the present ones.  What the former generation leaves is for `tidy`.
    Errors: HostError, and everything is as it was;
    OSError, and only the next start of the Manager knows which generation is on disk.
    """
    auths, fresh = derived_auths(master), new_master_key()
    try:
        tidy(paths, ptpm, identity)
        ak = ptpm.change_auth(identity.ak, auths["ak"], derived_auths(fresh)["ak"])
        keys = HostKeys(root_name=identity.root_name, ak=ak)
        made = establish(paths, ptpm, terms, keys, fresh, approvals, lambda: store)
    except BaseException as error:
        try:
            ptpm.use_keys(identity.slot, identity.ak, auths)
        except TandemError as failure:  # the next extend would be of the wrong anchor
            store.lose_anchor(failure)
        if isinstance(error, OSError):
            raise _not_written(paths, error) from error
        raise
    sync_directory(paths.manager)  # its OSError ends the Manager: which generation is on disk?
    store.go_on_as(made.store)
    return made.identity, made.recovery_key


def establish(
    paths: HostPaths,
    ptpm: Ptpm,
    terms: Terms,
    keys: HostKeys,
    master: Secret,
    approvals: Sequence[Approval],
    source: Callable[[], Store],
) -> Established:
    """Make a generation whole, its records those of `source`, and rename its identity into place.

    `keys` have the authValues that are derived from `master`.  `source` is called once the anchor
    of the new generation is in use.
    """
    auths = derived_auths(master)
    ptpm.keep_ak(terms.slot, keys.ak)
    ptpm.define_chain_index(terms.slot, auths["chain"])
    identity, recovery = seal_generation(ptpm, terms, keys, master)
    for approval in approvals:
        check_for(approval, identity)
        install(paths.approvals, approval, UID_BASE)
    ptpm.use_keys(terms.slot, keys.ak, auths)
    remove_store(paths, identity.store)  # left by an attempt that was cut off
    store = source().copied(paths.manager / identity.store, master)
    try:
        place_identity(paths.identity, identity)
    except BaseException:
        store.close()
        raise
    return Established(identity=identity, recovery_key=recovery, store=store)


def tidy(paths: HostPaths, ptpm: Ptpm, identity: Identity) -> None:
    """Take away what other generations left; only once the store has proved to be the newest."""
    ptpm.empty_slot((identity.slot + 1) % SLOTS)
    keep_only(paths.approvals, identity.generation)
    for path in paths.manager.iterdir():
        found = _STORE_FILE.fullmatch(path.name)
        if found is not None and found[1] != identity.store:
            path.unlink(missing_ok=True)


def remove_store(paths: HostPaths, name: str) -> None:
    """Remove a store with its log: a new one beside an old log would be taken for damaged."""
    for path in paths.manager.glob(f"{name}*"):
        path.unlink()


def _not_written(paths: HostPaths, error: OSError) -> HostError:
    return HostError(
        "TDM-HOST-NOT-RENEWED",
        f"no new master key: {error.filename or paths.manager}: {error.strerror}",
        hint="make room on the disk of the host's directory; the host goes on as it was",
    )
