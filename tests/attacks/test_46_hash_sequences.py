"""46: a client feeds another's hash sequence, and its digest is of both (TPM 1.2's SHA1Start, R11).

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; the digest that the first gets is of what both wrote.
Shows: a sequence is its client's alone; two side by side do not mix.
"""

from __future__ import annotations

import hashlib

from peers.shared_swtpm import SharedTpm
from tests.attacks.tpm import Tpm, complete, done, run, start_hash, update
from tests.integration.broker.running_broker import OTHER_UID, RunningBroker

HONEST = b"what the victim hashes"
EVIL = b"what the attacker adds"


def interleave(victim: Tpm, attacker: Tpm) -> bytes:
    """Let the attacker add to the victim's sequence; gives the digest that the victim gets."""
    sequence = done(victim, start_hash(), with_handle=True).handle
    done(victim, update(sequence, HONEST))
    run(attacker, update(sequence, EVIL))
    return done(victim, complete(sequence)).parameters[2 : 2 + hashlib.sha256().digest_size]


def test_control_the_digest_is_of_both(shared: SharedTpm) -> None:
    # Given a hash sequence of one client on a shared TPM
    # When another updates it
    # Then the first is given the digest of what both wrote
    assert interleave(shared, shared) == hashlib.sha256(HONEST + EVIL).digest()


def test_a_sequence_is_its_clients_alone(broker: RunningBroker) -> None:
    # Given a hash sequence of one client
    # When another updates it, by its handle
    with broker.client() as victim, broker.client(uid=OTHER_UID) as attacker:
        digest = interleave(victim, attacker)

    # Then the digest is of what the first wrote
    assert digest == hashlib.sha256(HONEST).digest()


def test_two_sequences_side_by_side_do_not_mix(broker: RunningBroker) -> None:
    # Given two clients that hash at once, under the same handle
    with broker.client() as one, broker.client() as other:
        clients = {one: b"one", other: b"other"}
        sequences = {each: done(each, start_hash(), with_handle=True).handle for each in clients}
        assert len(set(sequences.values())) == 1

        # When they write in turn
        for _ in range(5):
            for client, data in clients.items():
                done(client, update(sequences[client], data))

        # Then each gets the digest of its own
        for client, data in clients.items():
            digest = done(client, complete(sequences[client])).parameters[2:34]
            assert digest == hashlib.sha256(5 * data).digest()
