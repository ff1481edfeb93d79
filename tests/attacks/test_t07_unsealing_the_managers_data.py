"""T7 and 43: the host unseals the Manager's data with the pTPM that both use (R12).

Attacker: host administrator, who reads every file of the Manager.
Control: two clients of one swtpm; whoever loads what is on disk under the Manager's key is given
the secret (registers would not help: the attacker is in the same system).
Shows: the Manager's root key loads nothing for a client, and cannot be made again by it.
"""

from __future__ import annotations

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.manager.identity import read_identity
from tandem.manager.tpm_templates import ROOT_HANDLE
from tandem.wire import tpm_commands
from tests.attacks.tpm import (
    RC_SUCCESS,
    done,
    load,
    make_primary,
    read_public,
    run,
    seal,
    storage_public,
    unseal,
)
from tests.integration.broker.running_broker import OTHER_UID, RunningBroker

SECRET = b"the Manager's master key"
PERSISTENT = 0x81000100
RESOURCE_MANAGER = 0x000B0000  # layer of a response code (TSS 2.0 overview, 3.4)


def test_control_another_client_unseals_the_managers_data(shared: SharedTpm) -> None:
    # Given a Manager's key in a shared TPM, and on disk what it sealed
    primary = make_primary(shared)
    done(shared, tpm_commands.evict_control(tpm_commands.OWNER, primary, PERSISTENT))
    blob = seal(shared, PERSISTENT, SECRET)
    done(shared, tpm_commands.flush_context(primary))

    # When another client loads what is on disk
    loaded = done(shared, load(PERSISTENT, blob), with_handle=True).handle

    # Then the TPM gives it the secret
    assert done(shared, unseal(loaded)).parameters[2:] == SECRET


def test_the_managers_root_loads_nothing_for_a_client(broker: RunningBroker) -> None:
    # Given the sealed master key, as it lies on disk
    sealed = read_identity(broker.manager.paths.identity).sealed
    blob = (sealed.private, sealed.public)

    # When a client of the broker loads it under the Manager's key
    with broker.client() as attacker:
        code = run(attacker, load(ROOT_HANDLE, blob), with_handle=True).code

    # Then there is no such key for it; past the broker the TPM would have loaded it
    assert code & RESOURCE_MANAGER
    loaded = done(broker.ptpm, load(ROOT_HANDLE, blob), with_handle=True)
    done(broker.ptpm, tpm_commands.flush_context(loaded.handle))


@pytest.mark.parametrize("hierarchy", [tpm_commands.OWNER, tpm_commands.ENDORSEMENT])
def test_the_managers_root_cannot_be_made_again(broker: RunningBroker, hierarchy: int) -> None:
    # Given the public part of the Manager's root, which whoever is beside the pTPM can read
    answer = done(broker.ptpm, read_public(ROOT_HANDLE)).parameters
    public = answer[2 : 2 + int.from_bytes(answer[:2])]
    sealed = read_identity(broker.manager.paths.identity).sealed
    blob = (sealed.private, sealed.public)

    # When a client makes primary keys from it, and loads the master key under each
    made_keys = 0
    with broker.client() as attacker:
        for template in (public, storage_public()):
            made = run(attacker, tpm_commands.create_primary(hierarchy, template), with_handle=True)
            if made.code == RC_SUCCESS:
                made_keys += 1
                code = run(attacker, load(made.handle, blob), with_handle=True).code

                # Then the TPM sees that it is another parent's
                assert code != RC_SUCCESS
    assert made_keys == 2


def test_a_clients_own_seals_are_its_own_alone(broker: RunningBroker) -> None:
    # Given a secret that one user sealed under a key of his
    with broker.client() as owner, broker.client(uid=OTHER_UID) as other:
        parent = make_primary(owner)
        loaded = done(owner, load(parent, seal(owner, parent, SECRET)), with_handle=True).handle
        saved = done(owner, tpm_commands.context_save(loaded)).parameters

        # When another user loads the context that was saved, or names the handle
        context = run(other, tpm_commands.context_load(saved), with_handle=True).code
        used = run(other, unseal(loaded)).code

        # Then both are refused, and the owner has what he had
        assert context != RC_SUCCESS
        assert used != RC_SUCCESS
        assert done(owner, unseal(loaded)).parameters[2:] == SECRET
