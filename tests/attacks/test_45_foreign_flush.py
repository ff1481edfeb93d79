"""45: a client guesses another's handle, 0x80000000, and flushes or uses what is loaded there.

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; the first one's key is gone.
Shows: each client has handles of its own; another's means nothing to it, and equal ones are two
keys.
"""

from __future__ import annotations

from peers.shared_swtpm import SharedTpm
from tandem.wire import tpm_commands
from tests.attacks.tpm import RC_SUCCESS, Tpm, make_primary, read_public, run
from tests.integration.broker.running_broker import OTHER_UID, RunningBroker


def flush_the_others_key(victim: Tpm, attacker: Tpm) -> tuple[int, int]:
    """Let the attacker flush the victim's key; gives that code, and its next use's."""
    key = make_primary(victim)
    flushed = run(attacker, tpm_commands.flush_context(key)).code
    return flushed, run(victim, read_public(key)).code


def test_control_another_clients_key_is_flushed(shared: SharedTpm) -> None:
    # Given a TPM that two clients share, and one's key at 0x80000000
    # When the other flushes that handle
    flushed, used = flush_the_others_key(shared, shared)

    # Then it is gone for the one who made it
    assert flushed == RC_SUCCESS
    assert used != RC_SUCCESS


def test_a_handle_means_nothing_to_another_client(broker: RunningBroker) -> None:
    # Given two clients of the broker, and one's key
    with broker.client() as victim, broker.client(uid=OTHER_UID) as attacker:
        # When the other flushes its handle
        flushed, used = flush_the_others_key(victim, attacker)

    # Then there is nothing to flush, and the key is there
    assert flushed != RC_SUCCESS
    assert used == RC_SUCCESS


def test_equal_handles_of_two_clients_are_two_keys(broker: RunningBroker) -> None:
    # Given two clients with a key each, under the same number
    with broker.client() as victim, broker.client(uid=OTHER_UID) as attacker:
        key, other = make_primary(victim), make_primary(attacker)
        assert key == other

        # When one flushes his
        flushed = run(attacker, tpm_commands.flush_context(other)).code

        # Then the other's stays
        assert flushed == RC_SUCCESS
        assert run(victim, read_public(key)).code == RC_SUCCESS
