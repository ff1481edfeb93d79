"""50: a client guesses until the TPM locks everybody out, the owner with the right password too.

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; the right password is refused after a few wrong ones.
Shows: wrong guesses lock out the objects of who guesses; nobody else.
"""

from __future__ import annotations

from peers.shared_swtpm import SharedTpm
from tandem.wire import tpm_commands
from tests.attacks.tpm import (
    GUESSABLE_ATTRIBUTES,
    RC_SUCCESS,
    Tpm,
    done,
    load,
    make_primary,
    run,
    seal,
    unseal,
)
from tests.integration.broker.running_broker import OTHER_UID, RunningBroker

RC_LOCKOUT = 0x921  # TPM_RC (Part 2, 6.6.3)
SECRET, PASSWORD = b"what is sealed", b"the right password"
GUESSES = 40


def sealed_object(client: Tpm) -> int:
    """Load an object whose wrong passwords the TPM counts."""
    parent = make_primary(client)
    blob = seal(client, parent, SECRET, PASSWORD, GUESSABLE_ATTRIBUTES)
    handle = done(client, load(parent, blob), with_handle=True).handle
    done(client, tpm_commands.flush_context(parent))  # the shared TPM has three slots
    return handle


def guess(attacker: Tpm) -> None:
    """Guess at an object of the attacker's own, which is all that a lockout takes."""
    mine = sealed_object(attacker)
    for number in range(GUESSES):
        run(attacker, unseal(mine, number.to_bytes(2)))


def test_control_the_right_password_is_refused(shared: SharedTpm) -> None:
    # Given somebody's sealed secret on a shared TPM
    theirs = sealed_object(shared)

    # When another client guesses
    guess(shared)

    # Then the right password is refused
    assert run(shared, unseal(theirs, PASSWORD)).code == RC_LOCKOUT


def test_guesses_lock_nobody_else_out(broker: RunningBroker) -> None:
    # Given somebody's sealed secret
    with broker.client() as victim, broker.client(uid=OTHER_UID) as attacker:
        theirs = sealed_object(victim)

        # When another client guesses
        guess(attacker)

        # Then the right password opens it
        opened = run(victim, unseal(theirs, PASSWORD))
        assert opened.code == RC_SUCCESS
        assert opened.parameters[2:] == SECRET
