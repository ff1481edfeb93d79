"""A new master key takes slots of the pTPM: the broker's clients see nothing of it."""

from __future__ import annotations

import contextlib

from tests.attacks.tpm import (
    complete,
    done,
    load,
    make_primary,
    seal,
    start_hash,
    unseal,
    update,
)
from tests.integration.broker.running_broker import running_broker
from tests.integration.manager.running_manager import tandem

SECRET = b"a client's own"


def test_clients_keep_their_objects_while_the_master_key_is_renewed() -> None:
    # Given clients of the broker with a key, a sealed secret and a hash each, half done
    with running_broker() as broker, contextlib.ExitStack() as open_clients:
        clients = [open_clients.enter_context(broker.client()) for _ in range(2)]
        held = []
        for client in clients:
            primary = make_primary(client)
            loaded = done(client, load(primary, seal(client, primary, SECRET)), with_handle=True)
            sequence = done(client, start_hash(), with_handle=True).handle
            done(client, update(sequence, b"one, "))
            held.append((loaded.handle, sequence))
        # When the Manager gets a new master key, and another
        for _ in range(2):
            key = str(broker.approval_key)
            made = tandem(broker.host, "host", "rotate", "--key", key)
            assert made.returncode == 0, made.stderr
            # Then each goes on with what it had, and the Manager with what it does
            for client, (sealed, hashing) in zip(clients, held, strict=True):
                assert done(client, unseal(sealed)).parameters[2:] == SECRET
                done(client, update(hashing, b"two, "))
            broker.require_a_working_manager()
        digests = {
            done(c, complete(s)).parameters[:34] for c, (_, s) in zip(clients, held, strict=True)
        }
        assert len(digests) == 1
